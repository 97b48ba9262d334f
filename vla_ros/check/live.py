"""The ROS side of ``vla_ros check``: watches a live graph and says what it saw; judges nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.exceptions import InvalidNamespaceException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.task import Future
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros import topics
from vla_ros.check.seen import (
    CameraSeen,
    ControllerSettings,
    Endpoint,
    GraphSeen,
    HandSeen,
    JointStatesSeen,
    OutputSeen,
    TopicSeen,
)
from vla_ros.hands import hands_of
from vla_ros.outputs import Interface
from vla_ros.robot import RobotConfig, load_robot, read_robot_file
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros import qos
from vla_ros.ros.dds import cure_of_losses
from vla_ros.ros.rivals import Turns, is_numbered
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.ros.signals import interrupt_on_signals, not_a_namespace, ros_running

NODE_NAME = "vla_check"
INPUTS = {"task": topics.TASK.name, "estop": topics.ESTOP.name}
# Nobody in the graph after this long: it isn't there. A first announcement that gets lost is repeated after 3 s.
DISCOVERY_S = 4.0
# Between finding a publisher and its first message.
MATCHING_S = 0.5
# An answer is lost where the node hasn't discovered this client yet.
PATIENCE_S = 1.0


def load_live_robot(path: Path, namespace: str = "") -> RobotConfig:
    """A robot file as the nodes in ``namespace`` have it: the graph is asked only where limits come from a topic.

    Raises ValueError where it can't be used, KeyboardInterrupt where it is interrupted.
    """
    if not read_robot_file(path).urdf_topic:
        return load_robot(path)
    with graph(namespace):
        node = rclpy.create_node(NODE_NAME, namespace=namespace, start_parameter_services=False, enable_rosout=False)
        try:
            return load_robot_in_graph(node, path)
        finally:
            node.destroy_node()


def watch(robot: RobotConfig, duration_s: float, namespace: str = "", use_sim_time: bool = False) -> GraphSeen:
    """Look at the graph for ``duration_s`` seconds, after finding it.

    Raises ValueError for a namespace that is not valid, KeyboardInterrupt where it is interrupted.
    """
    with graph(namespace):
        watcher = _Watcher(robot, namespace, use_sim_time)
        watcher.find()
        seen = watcher.watch(duration_s)
        watcher.destroy_node()
    return seen


@contextmanager
def graph(namespace: str) -> Iterator[None]:
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
        self._is_watching = False
        self._questions: dict[tuple[str, str], _ControllerQuestion] = {}
        self._num_lost = Counter[str]()
        self._cameras = {camera.name: CameraSeen(TopicSeen(camera.topic)) for camera in robot.cameras}
        self._joint_states = tuple(
            JointStatesSeen(TopicSeen(source.topic), source.message_names) for source in robot.joint_sources
        )
        for camera in robot.cameras:
            self._keep(CompressedImage if camera.compressed else Image, self._cameras[camera.name])
        for seen in self._joint_states:
            self._keep(JointState, seen)
        self._hands = {hand.topic.name: HandSeen(TopicSeen(hand.topic.name)) for hand in hands_of(robot)}
        for hand in hands_of(robot):
            if hand.leader is not None:
                add = partial(self._hands[hand.topic.name].add, hand, robot.joint_names)
                self.create_subscription(JointState, hand.topic.name, add, qos.WATCH)

    def find(self) -> None:
        """Wait until every topic of the robot file has its other end, or it is clear that it won't have."""
        deadline = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline and not self._is_complete():
            rclpy.spin_once(self, timeout_sec=0.05)
        self._spin(MATCHING_S)

    def watch(self, duration_s: float) -> GraphSeen:
        """What comes in ``duration_s`` seconds from now on."""
        self._is_watching = True
        for output in self._robot.outputs:
            for subscription in self._commanded(output).subscriptions:
                question = _ControllerQuestion(self, subscription.node, output.kind)
                self._questions[output.name, subscription.node] = question
        self._spin(duration_s)
        until_ns = self.get_clock().now().nanoseconds
        for hand in self._hands.values():
            hand.topic = self._topic(hand.topic.name)
        for camera in self._cameras.values():
            camera.topic, camera.stream.until_ns = self._topic(camera.topic.name), until_ns
        for joints in self._joint_states:
            joints.topic, joints.until_ns = self._topic(joints.topic.name), until_ns
        return GraphSeen(
            seconds=duration_s,
            cameras=self._cameras,
            joint_states=self._joint_states,
            outputs={output.name: self._output(output) for output in self._robot.outputs},
            of_the_nodes=tuple(self._topic(topic.name) for topic in (topics.MODE, topics.STATUS, topics.RESULT)),
            hands=self._hands,
            num_lost=self._num_lost,
            cure_of_losses=cure_of_losses(),
            has_cv_bridge=find_spec("cv_bridge") is not None,
            has_control_msgs=find_spec("control_msgs") is not None,
            **{name: self._topic(topic) for name, topic in INPUTS.items()},
        )

    def _spin(self, duration_s: float) -> None:
        deadline = time.monotonic() + duration_s
        while (left_s := deadline - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=min(left_s, 0.1))
            for question in self._questions.values():
                question.pursue()

    def _keep(self, kind: type, seen: CameraSeen | JointStatesSeen) -> None:
        topic, turns = seen.topic.name, Turns()

        def keep(msg: Any, info: dict[str, Any]) -> None:
            # The middleware's own time of arrival: this process may be late in looking. It knows no simulated time.
            now_ns = self.get_clock().now().nanoseconds if self._use_sim_time else info["received_timestamp"]
            if not self._is_watching:
                return
            seen.add(msg, now_ns)
            sequence = info.get("publication_sequence_number")
            if isinstance(seen, JointStatesSeen) and is_numbered(sequence):
                own = [name for name in msg.name if name in seen.joint_names]
                if turns.heard(sequence, own, info["received_timestamp"]):
                    seen.contested.update(dict.fromkeys(own))

        def count(info: QoSMessageLostInfo) -> None:
            self._num_lost[topic] += info.total_count_change if self._is_watching else 0

        try:
            events = SubscriptionEventCallbacks(message_lost=count)
            self.create_subscription(kind, topic, keep, qos.WATCH, event_callbacks=events)
        except UnsupportedEventTypeError:  # a middleware that doesn't tell
            self.create_subscription(kind, topic, keep, qos.WATCH)

    def _output(self, output: OutputConfig) -> OutputSeen:
        topic = self._commanded(output)
        asked = {end.node: self._questions.get((output.name, end.node)) for end in topic.subscriptions}
        answers = {node: question.answer() for node, question in asked.items() if question}
        return OutputSeen(topic, {node: answer for node, answer in answers.items() if answer})

    def _is_complete(self) -> bool:
        inputs = [camera.topic for camera in self._robot.cameras] + [*self._robot.joint_topics]
        return all(self._topic(topic).publishers for topic in inputs) and all(
            self._commanded(output).subscriptions for output in self._robot.outputs
        )

    def _commanded(self, output: OutputConfig) -> TopicSeen:
        """The ends of an output's commands; an action's servers are those that publish its status, and its goals'
        service says its type."""
        if not output.kind.is_gripper:
            return self._topic(output.command_topic)
        name = self.resolve_topic_name(output.command_topic)
        services = dict(self.get_service_names_and_types()).get(f"{name}/_action/send_goal", ["nothing known"])
        kind = services[0].removesuffix("_SendGoal")
        servers = self._topic(f"{name}/_action/status").publishers
        publishers = self._topic(output.set_point_topic).publishers
        return TopicSeen(name, publishers, tuple(replace(server, type=kind) for server in servers))

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


class _ControllerQuestion:
    """What a node is asked, by its full name, as a controller of this interface: again while the question seems lost.

    ``pursue`` is called between two spins.
    """

    def __init__(self, owner: Node, node: str, kind: Interface) -> None:
        self._client = owner.create_client(GetParameters, f"{node}/get_parameters")
        self._names = ("joints", *(switch.name for switch in kind.switches))
        self._future: Future | None = None
        self._asked_s = 0.0

    def pursue(self) -> None:
        """Ask where that can be done by now."""
        now_s = time.monotonic()
        is_open = self._future is None or not self._future.done()
        if is_open and now_s - self._asked_s > PATIENCE_S and self._client.service_is_ready():
            request = GetParameters.Request(names=list(self._names))
            self._future, self._asked_s = self._client.call_async(request), now_s

    def answer(self) -> ControllerSettings | None:
        """The settings; None for a node that offers no parameters or isn't a controller."""
        response = self._future.result() if self._future is not None and self._future.done() else None
        # A node that refuses to name undeclared parameters answers with none at all.
        if response is None or len(response.values) != len(self._names):
            return None
        joints = response.values[0]
        if joints.type != ParameterType.PARAMETER_STRING_ARRAY:
            return None
        values = zip(self._names[1:], response.values[1:], strict=True)
        switches = {name: value.bool_value for name, value in values if value.type == ParameterType.PARAMETER_BOOL}
        return ControllerSettings(tuple(joints.string_array_value), switches)
