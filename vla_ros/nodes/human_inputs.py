"""What a human says: teleop trajectories, the emergency stop, a takeover button. Callbacks check, hand on and
return."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from vla_ros.messages.trajectories import parse_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros import qos
from vla_ros.ros.clock import NS_PER_S, StampMap, steady_now_ns
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.runtime.teleop import TeleopTrajectory

NO_BUTTON = -1
SOURCE = "teleop"


class HumanInputs:
    """The human's subscriptions, in a thread of their own: nothing else makes a hand on the stick wait.

    ``on_teleop`` gets a checked trajectory, ``on_takeover`` is called when the button ``takeover_button`` of ``joy``
    goes down; both return the reason for a refusal. ``on_estop`` gets what the emergency stop says.
    """

    def __init__(
        self,
        owner: Node,
        robot: RobotConfig,
        stamps: StampMap,
        problems: Problems,
        on_teleop: Callable[[TeleopTrajectory], str],
        on_estop: Callable[[bool], None],
        on_takeover: Callable[[], str],
        takeover_button: int = NO_BUTTON,
    ) -> None:
        self._robot = robot
        self._problems = problems
        self._on_teleop = on_teleop
        self._on_takeover = on_takeover
        self._stamps = stamps
        self._was_down = True  # held when the node starts is not pressed
        self._role = Role(owner, "human")
        node, topic = self._role.node, self._role.topic
        node.create_subscription(JointTrajectory, topic("~/teleop"), self._on_trajectory, qos.COMMAND)
        node.create_subscription(Bool, topic("~/estop"), lambda msg: on_estop(msg.data), qos.LATCHED)
        if takeover_button != NO_BUTTON:
            node.create_subscription(Joy, topic("joy"), partial(self._on_joy, takeover_button), qos.CAMERA)

    def start(self) -> None:
        self._role.start()

    def stop(self) -> None:
        self._role.stop()

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        try:
            trajectory = parse_trajectory(msg, self._robot.joint_names, in_order=True)
            start_ns = steady_now_ns()
            if trajectory.stamp_ns:
                start_ns = self._stamps.to_steady_ns(trajectory.stamp_ns)
            times_ns = tuple(start_ns + round(t * NS_PER_S) for t in trajectory.times_s)
            refusal = self._on_teleop(TeleopTrajectory(times_ns, trajectory.positions))
        except ValueError as error:
            refusal = str(error)
        if refusal:
            self._problems.report(SOURCE, f"'vla_policy/teleop' refused: {refusal}")

    def _on_joy(self, button: int, msg: Joy) -> None:
        if button >= len(msg.buttons):
            return self._problems.report(
                "joy", f"'joy' has {len(msg.buttons)} buttons; expected more than takeover_button {button}"
            )
        is_down = bool(msg.buttons[button])
        refusal = self._on_takeover() if is_down and not self._was_down else ""
        if refusal:
            self._problems.report("joy", f"takeover by 'joy' refused: {refusal}")
        self._was_down = is_down
