"""What the ROS tests share: nodes as child processes, a robot that is only topics, and a probe that watches."""

from __future__ import annotations

import math
import signal
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from child_process import SOURCE_ROOT, ChildProcess, child_environment
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from limit_watch import LimitWatch
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from spun_node import SpunNode
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from waiting import wait_until

from vla_ros.robot import RobotConfig
from vla_ros.ros import qos

# One comes with every command, and a busy machine lets several wait.
MODES = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Importing torch and transformers on a busy machine.
START_PATIENCE_S = 240.0
# Of what has begun before, or hasn't in all that time: a broken node must not cost every test minutes.
ANSWER_PATIENCE_S = 60.0
ASK_AGAIN_S = 3.0
CAMERA_PERIOD_S = 0.05
JOINTS_PER_FRAME = 4
PUSH_STEP_S = 0.01
CATCH_UP = 2.0  # of the speed that is allowed
ROBOT_FILE = SOURCE_ROOT / "test" / "data" / "three_joints.yaml"
MAX_UNHEARD_SHARE = 0.02


class NodeProcess(ChildProcess):
    """A node of this package, or of one that tests bring, in a process of its own."""

    def __init__(
        self,
        module: str,
        log: Path,
        parameters: Mapping[str, object],
        namespace: str = "",
        package: str = "vla_ros",
    ) -> None:
        assignments = [part for key, value in parameters.items() for part in ("-p", f"{key}:={value}")]
        if namespace:
            assignments += ["-r", f"__ns:=/{namespace}"]
        super().__init__(log, [f"{package}.{module}", "--ros-args", *assignments], child_environment())

    def pause(self, seconds: float) -> None:
        """Let it stand still so long."""
        self._child.send_signal(signal.SIGSTOP)
        time.sleep(seconds)  # how long it is away is what a test is about
        self._child.send_signal(signal.SIGCONT)


class Probe(SpunNode):
    """A node in the test's own process: publishes the sensors of a robot, and keeps what the nodes say."""

    def __init__(self, robot: RobotConfig, namespace: str = "") -> None:
        self.robot = robot
        self.positions = np.zeros(robot.num_joints)
        self.encoding = "rgb8"
        self.image_size = (robot.cameras[0].height, robot.cameras[0].width)
        self.silent: set[str] = set()
        self.frozen: set[str] = set()
        self.is_held = False
        self.largest_gap = 0.0
        self.clock_offset_ns = 0
        self.joint_names = list(robot.joint_names)
        self.commands: list[JointTrajectory] = []
        self.sent_s: list[float] = []
        self.chunks: list[JointTrajectory] = []
        self.modes: list[str] = []
        self.image_stamps_ns: list[int] = []
        self._diagnostics: dict[str, DiagnosticStatus] = {}
        self._clients: dict[str, Any] = {}
        self._waited_for: set[str] = set()
        self._moved_s = -math.inf
        node = rclpy.create_node("probe", namespace=namespace)
        self.namespace = node.get_namespace()
        self._cameras = {c.name: node.create_publisher(Image, c.topic, qos.CAMERA) for c in robot.cameras}
        self._joints = node.create_publisher(JointState, robot.joint_sources[0].topic, qos.JOINT_STATES)
        self._task = node.create_publisher(String, "vla_policy/task", qos.LATCHED)
        self._teleop = node.create_publisher(JointTrajectory, "vla_policy/teleop", qos.COMMAND)
        self._estop = node.create_publisher(Bool, "vla_policy/estop", qos.LATCHED)
        topic = robot.outputs[0].command_topic
        node.create_subscription(JointTrajectory, topic, self._on_command, qos.REPORT)
        self.limits = LimitWatch(node, robot)
        node.create_subscription(JointTrajectory, "vla_policy/chunk", self.chunks.append, qos.REPORT)
        node.create_subscription(String, "vla_policy/mode", lambda msg: self.modes.append(msg.data), MODES)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.REPORT)
        super().__init__(node)
        self.start()
        self._is_over = threading.Event()
        self._sensors = threading.Thread(target=self._publish, daemon=True)
        self._sensors.start()

    def close(self) -> None:
        self._is_over.set()
        self._sensors.join()
        super().close()

    def reset(self) -> None:
        """Healthy sensors again, and nothing that the nodes said remembered; images sent before may still be seen."""
        self.encoding, self.joint_names = "rgb8", list(self.robot.joint_names)
        self.silent, self.frozen, self.is_held = set(), set(), False
        self.image_size = (self.robot.cameras[0].height, self.robot.cameras[0].width)
        for kept in (self.commands, self.sent_s, self.chunks):
            kept.clear()
        self._diagnostics.clear()

    def say(self, task: str) -> None:
        self._task.publish(String(data=task))

    def estop(self, is_pressed: bool) -> None:
        self._estop.publish(Bool(data=is_pressed))

    def teleop(
        self,
        positions: list[float],
        names: list[str] | None = None,
        stamp_ago_s: float | None = None,
        num_points: int = 1,
    ) -> None:
        """One message of a human's: ``positions`` a control period from now, or from a stamp so long ago."""
        msg = JointTrajectory(joint_names=self.robot.joint_names if names is None else names)
        if stamp_ago_s is not None:
            msg.header.stamp = (self.node.get_clock().now() - Duration(seconds=stamp_ago_s)).to_msg()
        for i in range(num_points):
            point = JointTrajectoryPoint(positions=positions)
            point.time_from_start = Duration(seconds=(i + 1) / self.robot.control_rate_hz).to_msg()
            msg.points.append(point)
        self._teleop.publish(msg)

    def push(self, goal: np.ndarray, speed: float) -> None:
        """Move the arm by hand, in rad and rad/s; from now on it doesn't follow commands until ``is_held`` is false."""
        self.is_held = True
        way = goal - self.positions
        num_steps = max(1, round(float(np.abs(way).max()) / speed / PUSH_STEP_S))
        start, self.largest_gap = self.positions, 0.0
        for i in range(1, num_steps + 1):
            time.sleep(PUSH_STEP_S)  # as a hand takes its time
            self.positions = start + way * (i / num_steps)

    def mode(self) -> str:
        return self.modes[-1] if self.modes else ""

    def is_at_rest(self, num: int = 3) -> bool:
        """Whether one position without velocity is commanded again and again: a mode comes on a topic of its own, and
        the newest command that was heard may be older."""
        last = [command.points[0] for command in self.commands[-num:]]
        rest = [(point.positions, any(point.velocities)) for point in last]
        return len(rest) == num and rest == [(rest[0][0], False)] * num

    def diagnostic(self, name: str) -> DiagnosticStatus | None:
        """The last status of a node: ``vla_policy: control`` or ``vla_model: inference``."""
        return self._diagnostics.get(f"{self.namespace}/{name}".lstrip("/"))

    def said(self, name: str) -> str:
        """The message of a node's last status; empty before the first."""
        status = self.diagnostic(name)
        return status.message if status is not None else ""

    def value(self, name: str, key: str) -> str:
        """A value of a node's last status."""
        status = self.diagnostic(name)
        return next((value.value for value in status.values if value.key == key), "") if status is not None else ""

    def says(self, *words: str) -> bool:
        """Whether the policy node's last status has each of them in it."""
        status = self.diagnostic("vla_policy: control")
        values = [] if status is None else [f"{value.key} {value.value}" for value in status.values]
        text = " ".join([self.said("vla_policy: control"), *values])
        return all(word in text for word in words)

    def wait_for_words(self, *words: str) -> None:
        wait_until(lambda: self.says(*words), f"{words} in the diagnostics")

    def trigger(self, service: str) -> Trigger.Response:
        return self._call(Trigger, service, Trigger.Request())

    def engage(self) -> None:
        """Engage as soon as it is possible."""
        last = [""]

        def is_engaged() -> bool:
            response = self.trigger("vla_policy/engage")
            last[0] = response.message
            return response.success

        try:
            wait_until(is_engaged, "engage", self._patience_s("engage"))
        except AssertionError as error:
            raise AssertionError(f"{error}: {last[0]}") from error

    def drive(self, num_chunks: int = 1) -> None:
        """Let the policy drive until so many chunks are followed, engaged again where a busy machine ends the drive."""
        self.chunks.clear()
        self.engage()

        def is_driven() -> bool:
            if self.mode() == "HOLD":
                self.engage()
            return self.mode() == "POLICY" and len(self.chunks) >= num_chunks

        wait_until(is_driven, f"{num_chunks} chunks that are followed")

    def change_state(self, node: str, transition: str) -> bool:
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        if (node, transition) == ("vla_policy", "activate"):
            self.limits.new_segment()  # it starts from where the robot is measured
        before = self.state(node)
        patience_s = self._patience_s(f"{node} loads") if transition == "configure" else None
        request = ChangeState.Request(transition=Transition(id=number))

        def has_changed() -> bool:
            return self.state(node, patience_s) != before

        # Where the answer is lost, as it is to a client the node hasn't discovered yet, the state tells; so may the
        # question be, which is then asked again: a node answers nothing in a transition.
        response = self._call(ChangeState, f"{node}/change_state", request, patience_s, has_changed)
        return response is None or response.success or has_changed()

    def state(self, node: str, patience_s: float | None = None) -> str:
        return self._call(GetState, f"{node}/get_state", GetState.Request(), patience_s).current_state.label

    def set_parameter(self, node: str, name: str, value: Any) -> SetParametersResult:
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self._call(SetParameters, f"{node}/set_parameters", request).results[0]

    def set_text(self, node: str, name: str, value: str) -> None:
        result = self.set_parameter(node, name, value)
        assert result.successful, result.reason

    def describe_parameter(self, node: str, name: str) -> ParameterDescriptor:
        request = DescribeParameters.Request(names=[name])
        return self._call(DescribeParameters, f"{node}/describe_parameters", request).descriptors[0]

    def _call(
        self,
        kind: Any,
        name: str,
        request: Any,
        patience_s: float | None = None,
        is_settled: Callable[[], bool] | None = None,
    ) -> Any:
        """The answer of a service, asked again where it seems lost; with ``is_settled``, only where that is not true,
        and None where it is."""
        if name not in self._clients:
            self._clients[name] = self.do(self.node.create_client, kind, name)
        client, node = self._clients[name], name.rpartition("/")[0]
        if patience_s is None:
            patience_s = self._patience_s(node)
        wait_until(client.service_is_ready, f"the service {name}", patience_s)
        asked, asked_s = client.call_async(request), time.monotonic()

        def is_over() -> bool:
            nonlocal asked, asked_s
            if asked.done():
                return True
            if time.monotonic() < asked_s + ASK_AGAIN_S:
                return False
            if is_settled is not None and is_settled():
                return True
            if not asked.done():  # its answer may have come while the state was asked for
                asked, asked_s = client.call_async(request), time.monotonic()
            return False

        wait_until(is_over, f"an answer from {name}", patience_s)
        return asked.result()

    def _patience_s(self, what: str) -> float:
        """Long the first time that it is waited for."""
        is_first = what not in self._waited_for
        self._waited_for.add(what)
        return START_PATIENCE_S if is_first else ANSWER_PATIENCE_S

    def _on_command(self, msg: JointTrajectory, info: Mapping[str, Any]) -> None:
        self.sent_s.append(1e-9 * info["source_timestamp"])
        self.commands.append(msg)
        commanded = np.array(msg.points[0].positions)
        gap = np.abs(commanded - self.positions) / self.robot.max_tracking_errors
        self.largest_gap = max(self.largest_gap, float(gap.max()))
        now_s = time.monotonic()
        if not self.is_held:
            # No faster than an arm can, though a busy machine hands over many commands at once.
            reach = CATCH_UP * self.robot.joint_values("max_velocity") * (now_s - self._moved_s)
            self.positions = self.positions + np.clip(commanded - self.positions, -reach, reach)
        self._moved_s = now_s

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self._diagnostics.update({status.name: status for status in msg.status})

    def _publish(self) -> None:
        """Joints at 80 Hz that are where they were told to be, images at 20 Hz."""
        count = 0
        while not self._is_over.wait(CAMERA_PERIOD_S / JOINTS_PER_FRAME):
            stamp = self.node.get_clock().now() + Duration(nanoseconds=self.clock_offset_ns)
            if "joints" not in self.silent:
                msg = JointState(name=self.joint_names, position=array("d", self.positions[: len(self.joint_names)]))
                msg.header.stamp = stamp.to_msg()
                self._joints.publish(msg)
            count += 1
            if count % JOINTS_PER_FRAME:
                continue
            self.image_stamps_ns.append(stamp.nanoseconds)
            for camera in self._cameras.keys() - self.silent:
                level = 0 if camera in self.frozen else count % 256
                self._cameras[camera].publish(self._image(camera, stamp, level))

    def _image(self, camera: str, stamp: Any, level: int) -> Image:
        is_first = camera == self.robot.cameras[0].name
        height, width = self.image_size if is_first else (self.robot.cameras[0].height, self.robot.cameras[0].width)
        encoding = self.encoding if is_first else "rgb8"
        num_bytes = {"rgb8": 3, "16UC1": 2, "bayer_rggb8": 1}[encoding]
        msg = Image(height=height, width=width, encoding=encoding, step=width * num_bytes)
        msg.data = array("B", bytes([level]) * (height * width * num_bytes))
        msg.header.stamp = stamp.to_msg()
        return msg


def assert_within_limits(probe: Probe) -> None:
    """Every command that came since the last call keeps the robot file's limits, judged at the nominal period."""
    use = probe.limits.take()
    where = f"{probe.namespace}: commands outside the robot file"
    assert not use.num_violations, f"{where}: {use}; {probe.limits.first_broken}"
    assert use.num_unheard <= MAX_UNHEARD_SHARE * use.num_commands, f"the judge did not hear enough: {use}"
