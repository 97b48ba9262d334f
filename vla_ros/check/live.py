"""The ROS side of ``vla_ros check``: watches a live graph and says what it saw; judges nothing."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from PIL import Image as PillowImage
from rclpy.exceptions import InvalidNamespaceException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros import topics
from vla_ros.check.controllers import ControllerQuestions
from vla_ros.check.seen import (
    CameraSeen,
    Endpoint,
    GraphSeen,
    JointStatesSeen,
    OutputSeen,
    Picture,
    Range,
    Stream,
    TopicSeen,
)
from vla_ros.messages.compressed import find_problem, refuse_format
from vla_ros.messages.images import COLOUR_ENCODINGS, decode_pixels
from vla_ros.messages.joints import names_any, positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.robot import RobotConfig, load_robot, read_robot_file
from vla_ros.ros import qos
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.ros.signals import interrupt_on_signals, not_a_namespace, ros_running
from vla_ros.strict import quoted

NODE_NAME = "vla_check"
INPUTS = {"task": topics.TASK.name, "teleop": topics.TELEOP.name, "estop": topics.ESTOP.name}
# Nobody in the graph after this long: it isn't there.
DISCOVERY_S = 3.0
# Between finding a publisher and its first message.
MATCHING_S = 0.5


def load_live_robot(path: Path, namespace: str = "") -> RobotConfig:
    """A robot file as the nodes in ``namespace`` have it: the graph is asked only where limits come from a topic.

    Raises ValueError where it can't be used, KeyboardInterrupt where it is interrupted.
    """
    if not read_robot_file(path).urdf_topic:
        return load_robot(path)
    with _graph(namespace):
        node = rclpy.create_node(NODE_NAME, namespace=namespace, start_parameter_services=False, enable_rosout=False)
        try:
            return load_robot_in_graph(node, path)
        finally:
            node.destroy_node()


def watch(robot: RobotConfig, duration_s: float, namespace: str = "", use_sim_time: bool = False) -> GraphSeen:
    """Look at the graph for ``duration_s`` seconds, after finding it.

    Raises ValueError for a namespace that is not valid, KeyboardInterrupt where it is interrupted.
    """
    with _graph(namespace):
        watcher = _Watcher(robot, namespace, use_sim_time)
        watcher.find()
        watcher.watch(duration_s)
        seen = watcher.seen(duration_s)
        watcher.destroy_node()
    return seen


@contextmanager
def _graph(namespace: str) -> Iterator[None]:
    """ROS from its start to its end, in which an interrupt is Python's own."""
    interrupt_on_signals()
    try:
        with ros_running():
            yield
    except InvalidNamespaceException as error:
        raise not_a_namespace(namespace, error) from error
    except ExternalShutdownException as error:
        raise KeyboardInterrupt from error


class _Watcher(Node):
    """Subscribes to the sensors with a QoS that matches every publisher, and asks the graph about all topics."""

    def __init__(self, robot: RobotConfig, namespace: str, use_sim_time: bool) -> None:
        super().__init__(
            NODE_NAME,
            namespace=namespace,
            start_parameter_services=False,
            enable_rosout=False,
            parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)],
        )
        self._robot = robot
        self._use_sim_time = use_sim_time
        self._questions = ControllerQuestions(self)
        self._forget()
        for camera in robot.cameras:
            kind = CompressedImage if camera.compressed else Image
            self._listen(kind, camera.topic, lambda name=camera.name: self._cameras[name])
        self._listen(JointState, robot.joint_states.topic, lambda: self._joint_states)

    def find(self) -> None:
        """Wait until every topic of the robot file has its other end, or it is clear that it won't have."""
        deadline = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline and not self._is_complete():
            rclpy.spin_once(self, timeout_sec=0.05)
        self._spin(MATCHING_S)
        self._forget()

    def watch(self, duration_s: float) -> None:
        for output in self._robot.outputs:
            for subscription in self._topic(output.command_topic).subscriptions:
                self._questions.ask(subscription.node, output.kind)
        self._spin(duration_s)

    def seen(self, duration_s: float) -> GraphSeen:
        until_ns = self.get_clock().now().nanoseconds
        cameras = {}
        for camera in self._robot.cameras:
            images = self._cameras[camera.name]
            cameras[camera.name] = CameraSeen(self._topic(camera.topic), images.stream(until_ns), images.pictures)
        joints, joints_topic = self._joint_states, self._topic(self._robot.joint_states.topic)
        stream = joints.stream(until_ns)
        outputs = {}
        for output in self._robot.outputs:
            topic = self._topic(output.command_topic)
            nodes = dict.fromkeys(subscription.node for subscription in topic.subscriptions)
            answers = {node: self._questions.answer(node, output.kind) for node in nodes}
            outputs[output.name] = OutputSeen(topic, {node: answer for node, answer in answers.items() if answer})
        return GraphSeen(
            seconds=duration_s,
            cameras=cameras,
            joint_states=JointStatesSeen(joints_topic, stream, joints.num_named, joints.positions, joints.refused),
            outputs=outputs,
            has_cv_bridge=find_spec("cv_bridge") is not None,
            **{name: self._topic(topic) for name, topic in INPUTS.items()},
        )

    def _spin(self, duration_s: float) -> None:
        deadline = time.monotonic() + duration_s
        while (left_s := deadline - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=min(left_s, 0.1))
            self._questions.pursue()

    def _forget(self) -> None:
        self._cameras = {name: _Images() for name in self._robot.camera_names}
        self._joint_states = _JointStates(joint_names=self._robot.joint_names)

    def _listen(self, kind: type, topic: str, heard: Callable[[], _Heard]) -> None:
        def keep(msg: Any, info: dict[str, Any]) -> None:
            # The middleware's own time of arrival: this process may be late in looking. It knows no simulated time.
            now_ns = self.get_clock().now().nanoseconds if self._use_sim_time else info["received_timestamp"]
            heard().add(msg, now_ns)

        self.create_subscription(kind, topic, keep, qos.WATCH)

    def _is_complete(self) -> bool:
        inputs = [camera.topic for camera in self._robot.cameras] + [self._robot.joint_states.topic]
        return all(self._topic(topic).publishers for topic in inputs) and all(
            self._topic(output.command_topic).subscriptions for output in self._robot.outputs
        )

    def _topic(self, topic: str) -> TopicSeen:
        name = self.resolve_topic_name(topic)
        return TopicSeen(
            name,
            self._endpoints(self.get_publishers_info_by_topic(name)),
            self._endpoints(self.get_subscriptions_info_by_topic(name)),
        )

    def _endpoints(self, infos: list[TopicEndpointInfo]) -> tuple[Endpoint, ...]:
        own = self.get_fully_qualified_name()
        endpoints = [
            Endpoint(
                f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                info.topic_type,
                info.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
                info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
            )
            for info in infos
        ]
        return tuple(endpoint for endpoint in endpoints if endpoint.node != own)


@dataclass
class _Heard:
    """What came on one topic."""

    received_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)

    def add(self, msg: Any, now_ns: int) -> None:
        self.received_ns.append(now_ns)
        self.stamps_ns.append(time_to_ns(msg.header.stamp))

    def stream(self, until_ns: int) -> Stream:
        return Stream(np.array(self.received_ns, np.int64), np.array(self.stamps_ns, np.int64), until_ns)


@dataclass
class _Images(_Heard):
    pictures: Counter[Picture] = field(default_factory=Counter)

    def add(self, msg: Any, now_ns: int) -> None:
        super().add(msg, now_ns)
        self.pictures[_compressed_picture(msg) if hasattr(msg, "format") else _picture(msg)] += 1


@dataclass
class _JointStates(_Heard):
    """Messages that name none of ``joint_names`` (wheels, another arm) count only where no other came."""

    foreign: _Heard = field(default_factory=_Heard)
    joint_names: Sequence[str] = ()
    num_named: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    positions: dict[str, Range] = field(default_factory=dict)

    def add(self, msg: Any, now_ns: int) -> None:
        self.num_named.update(dict.fromkeys(msg.name, 1))
        if not names_any(msg, self.joint_names):
            return self.foreign.add(msg, now_ns)
        super().add(msg, now_ns)
        present = [name for name in self.joint_names if name in msg.name]
        try:
            positions, _ = positions_by_name(msg, present)
        except ValueError as error:
            self.refused[str(error)] += 1
            return
        for name, position in zip(present, positions.tolist(), strict=True):
            known = self.positions.get(name, Range(position, position))
            self.positions[name] = Range(min(known.lowest, position), max(known.highest, position))

    def stream(self, until_ns: int) -> Stream:
        return super().stream(until_ns) if self.received_ns else self.foreign.stream(until_ns)


def _picture(msg: Image) -> Picture:
    problem = ""
    if msg.encoding in COLOUR_ENCODINGS:
        try:
            decode_pixels(msg)  # a view: no pixel is read
        except ValueError as error:
            problem = str(error)
    return Picture(msg.width, msg.height, msg.encoding, problem)


def _compressed_picture(msg: CompressedImage) -> Picture:
    """Its size from the file's header; nothing is decoded."""
    try:
        with PillowImage.open(io.BytesIO(msg.data)) as image:
            problem = "" if refuse_format(msg.format) else find_problem(msg)  # its format is judged for itself
            return Picture(*image.size, msg.format, problem)
    except Exception as error:  # damaged bytes make the library raise many things
        problem = f"{len(msg.data)} bytes of format '{quoted(msg.format)}' are not a picture ({type(error).__name__})"
        return Picture(0, 0, msg.format, problem)
