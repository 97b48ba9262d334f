"""What the nodes by which a human jogs share: what they hear, the targets they send, what they ask for."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.hands import hands_of
from vla_ros.messages.joints import joint_sample
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.observing.buffers import SensorBuffers
from vla_ros.observing.freshness import joint_fault
from vla_ros.robot import RobotConfig
from vla_ros.ros import qos
from vla_ros.ros.endpoints import make_client, make_publisher, subscribe
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.share import robot_file
from vla_ros.strict import one_line, quoted
from vla_ros.teleop.jog import Drive

PERIOD_S = 0.05
POINT_AHEAD_S = 0.1
SERVICES = {
    service.name.rpartition("/")[2]: service
    for service in (topics.TAKEOVER, topics.ENGAGE, topics.HOLD, topics.RESET_ESTOP)
}
# What must come after the last teleop message, which takes over, and after a stop button let go.
SETTLE_S = {"engage": 0.1, "hold": 0.1, "reset_estop": 0.1}
ANSWER_PATIENCE_S = 2.0
# After the first joint state, for those of all other joints.
JOINTS_PATIENCE_S = 1.0


class TeleopNode(Node):
    """Its callbacks, in the thread that spins it, only keep the newest; ``listen`` begins them, for a robot.

    The other methods are called from one other thread. Raises ValueError for a robot file that cannot be used, or whose
    leader takes the topic that targets go to.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.mode = ""
        self._expected_s, self._unreadable = math.inf, ""
        self._due_s: dict[str, float] = {}
        self._asked: dict[str, tuple[float, Future]] = {}

    def listen(self, robot: str) -> RobotConfig:
        """Read the file of ``robot``, and begin."""
        self.follow(load_robot_in_graph(self, robot_file(robot)))
        if refusal := leader_refusal(self.robot):
            raise ValueError(refusal)
        return self.robot

    def follow(self, robot: RobotConfig) -> None:
        """Begin, with ``robot``."""
        self.robot = robot
        self._teleop = make_publisher(self, topics.TELEOP)
        self._estop = self.make_stop()
        self._triggers = {name: make_client(self, service) for name, service in SERVICES.items()}
        subscribe(self, topics.MODE, self._on_mode)
        self._sensors = SensorBuffers(self.robot)
        for topic in self.robot.joint_topics:
            self.create_subscription(JointState, topic, partial(self._on_joint_state, topic), qos.JOINT_STATES)

    def make_stop(self) -> Publisher:
        """What presses the emergency stop."""
        return make_publisher(self, topics.ESTOP)

    @property
    def problem(self) -> str:
        """What is wrong with the joint states; empty where nothing is."""
        fault = joint_fault(self.robot, self._sensors, time.monotonic_ns())
        is_missing = fault is not None and fault.age_s is None and time.monotonic() > self._expected_s
        return self._unreadable or (fault.line if fault is not None and is_missing else "")

    def fresh_positions(self) -> np.ndarray | None:
        """The newest measured positions ``[num_joints]``; None while some are missing or old."""
        newest = self._sensors.joints.newest()
        is_stale = joint_fault(self.robot, self._sensors, time.monotonic_ns()) is not None
        return None if newest is None or is_stale or self._unreadable else newest.positions

    def publish(self, target: np.ndarray) -> None:
        """Send a target ``[num_joints]``."""
        msg, names = JointTrajectory(), self.robot.driven_names
        point = Trajectory(0, np.array([POINT_AHEAD_S]), target[None, self.robot.columns(names)], None)
        fill_trajectory(msg, point, names, JointTrajectoryPoint)
        self._teleop.publish(msg)

    def ask(self, session: Drive, now_s: float) -> None:
        """Publish and call what the session asks for, each when its time has come."""
        for request in session.requests:
            # The newest key counts: an engage still to come must not undo it.
            self._due_s.pop("engage", None)
            if request in ("press_estop", "release_estop"):
                self._estop.publish(Bool(data=request == "press_estop"))
            else:
                self._due_s[request] = now_s + SETTLE_S.get(request, 0.0)
        session.requests.clear()
        for service in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[service]
            if not self._triggers[service].service_is_ready():
                session.answer(service, False, f"nobody offers {SERVICES[service]}; does policy_node run?")
                continue
            self._asked[service] = now_s, self._triggers[service].call_async(Trigger.Request())

    def hear(self, session: Drive, now_s: float) -> None:
        """Tell the session what services answered."""
        for service, (asked_s, answer) in list(self._asked.items()):
            if answer.done():
                session.answer(service, answer.result().success, one_line(answer.result().message))
            elif now_s - asked_s > ANSWER_PATIENCE_S:
                session.lines.append(f"{service}: no answer in {ANSWER_PATIENCE_S:g} s")
            else:
                continue
            del self._asked[service]

    def _on_mode(self, msg: String) -> None:
        self.mode = quoted(msg.data)

    def _on_joint_state(self, topic: str, msg: JointState) -> None:
        columns, now_s = self.robot.joint_columns[topic], time.monotonic()
        self._expected_s = min(self._expected_s, now_s + JOINTS_PATIENCE_S)
        try:
            sample = joint_sample(msg, columns, self.robot.num_joints, time.monotonic_ns())
        except ValueError as error:
            self._unreadable = str(error)
            return
        if sample is not None:
            self._unreadable = ""
            self._sensors.joints.add(sample)


def leader_refusal(robot: RobotConfig) -> str:
    """Why nobody can jog ``robot`` by trajectories, in one line; empty where anybody can."""
    if not any(hand.topic.name == topics.TELEOP.name and hand.leader for hand in hands_of(robot)):
        return ""
    got = f"the leader of robot '{robot.name}' publishes joint states on '{topics.TELEOP}'"
    return f"{got}, where this node's trajectories go; give it a topic: teleop.topic in the robot file"
