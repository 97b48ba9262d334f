"""The node of ``vla_ros record``: hands serialized messages on to the thread that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from sensor_msgs.msg import JointState

from vla_ros.messages.bounds import MAX_NAMES
from vla_ros.record.topics import RobotTopic
from vla_ros.record.writing import WriterThread
from vla_ros.units import NS_PER_S


@dataclass
class TopicReport:
    """What came on one topic. ``num_lost`` is what the middleware says it could not deliver; ``num_bytes`` are those of
    the messages as they came."""

    topic: str
    type: str
    num_messages: int = 0
    num_bytes: int = 0
    rate_hz: float = 0.0
    num_lost: int = 0


class TopicRecorder:
    """One topic: its subscription, and what came."""

    def __init__(self, node: RecordNode, topic: RobotTopic) -> None:
        self.topic = topic
        self.name = node.resolve_topic_name(topic.name)
        self.report = TopicReport(self.name, topic.msgtype)
        self.foreign_types: set[str] = set()
        self.unnamed = dict.fromkeys(topic.joint_names)
        self.named: dict[str, None] = {}
        self._node = node
        self._qos = topic.qos
        self._first_ns = 0
        self._subscription = self._subscribe()

    def look(self) -> None:
        """See who publishes: a type of another name is not recorded, and a weaker QoS needs a weaker subscription."""
        publishers = self._node.get_publishers_info_by_topic(self.name)
        self.foreign_types |= {info.topic_type for info in publishers} - {self.topic.msgtype}
        fitting = self._qos_for([info.qos_profile for info in publishers])
        if fitting != self._qos:
            self._qos = fitting
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def offered_qos(self) -> list[Qos]:
        """What the publishers of this topic offer, one for each."""
        infos = self._node.get_publishers_info_by_topic(self.name)
        return [_bag_qos(info.qos_profile) for info in infos if info.topic_type == self.topic.msgtype]

    def add(self, stamp_ns: int, num_bytes: int) -> None:
        self._first_ns = self._first_ns or stamp_ns
        span_s = (stamp_ns - self._first_ns) / NS_PER_S
        self.report.rate_hz = round(self.report.num_messages / span_s, 2) if span_s > 0 else 0.0
        self.report.num_messages += 1
        self.report.num_bytes += num_bytes

    def name_joints(self, data: bytes) -> None:
        """A serialized joint state: which joints it names, as long as one of the robot's wasn't named."""
        try:
            names = deserialize_message(data, JointState).name[:MAX_NAMES]
        except RuntimeError:  # it is recorded as it came; whoever reads the bag says what is wrong with it
            return
        if len(self.named) < MAX_NAMES:
            self.named.update(dict.fromkeys(names))
        for name in names:
            self.unnamed.pop(name, None)

    def _subscribe(self) -> Subscription:
        subscribe = partial(
            self._node.create_subscription,
            self.topic.kind,
            self.topic.name,
            partial(self._node.write, self),
            self._qos,
            raw=True,
        )
        try:
            return subscribe(event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost))
        except UnsupportedEventTypeError:  # a middleware that doesn't tell
            return subscribe()

    def _on_lost(self, info: QoSMessageLostInfo) -> None:
        self.report.num_lost += info.total_count_change

    def _qos_for(self, offered: Sequence[QoSProfile]) -> QoSProfile:
        """The present profile, made as weak as the weakest of ``offered``, so that each of them is heard."""
        reliability, durability = self._qos.reliability, self._qos.durability
        if any(qos.reliability == ReliabilityPolicy.BEST_EFFORT for qos in offered):
            reliability = ReliabilityPolicy.BEST_EFFORT
        if any(qos.durability == DurabilityPolicy.VOLATILE for qos in offered):
            durability = DurabilityPolicy.VOLATILE
        return QoSProfile(depth=self._qos.depth, reliability=reliability, durability=durability)


class RecordNode(Node):
    """Records what ``start`` subscribes to. ``use_sim_time`` stamps with ``/clock``'s time, as rosbag2 does."""

    def __init__(self, namespace: str, use_sim_time: bool) -> None:
        super().__init__(
            "vla_record",
            namespace=namespace,
            start_parameter_services=False,
            enable_rosout=False,
            parameter_overrides=[Parameter("use_sim_time", value=True)] if use_sim_time else [],
        )
        self.topics: list[TopicRecorder] = []
        self._writer: WriterThread | None = None
        self._uses_sim_time = self.get_parameter("use_sim_time").value

    @property
    def has_time(self) -> bool:
        """Simulated time is 0 until somebody publishes it."""
        return not self._uses_sim_time or self.get_clock().now().nanoseconds > 0

    @property
    def num_messages(self) -> int:
        return sum(topic.report.num_messages for topic in self.topics)

    def start(self, topics: Sequence[RobotTopic], writer: WriterThread) -> None:
        """Subscribe, and let ``writer`` have whatever comes from now on."""
        self._writer = writer
        self.topics = [TopicRecorder(self, topic) for topic in topics]

    def look(self) -> None:
        for topic in self.topics:
            topic.look()

    def write(self, topic: TopicRecorder, data: bytes, info: dict[str, Any]) -> None:
        # The middleware's own time of arrival: this process may be late in looking. It knows no simulated time.
        stamp_ns = self.get_clock().now().nanoseconds if self._uses_sim_time else info["received_timestamp"]
        # Only now are its publishers known.
        offered_qos = [] if topic.report.num_messages else topic.offered_qos()
        assert self._writer is not None
        self._writer.write(topic.name, topic.topic.msgtype, offered_qos, data, stamp_ns)
        topic.add(stamp_ns, len(data))
        if topic.unnamed:
            topic.name_joints(data)


def _bag_qos(qos: QoSProfile) -> Qos:
    return Qos(
        history=QosHistory[qos.history.name],
        depth=qos.depth,
        reliability=QosReliability[qos.reliability.name],
        durability=QosDurability[qos.durability.name],
        deadline=_bag_time(qos.deadline.nanoseconds),
        lifespan=_bag_time(qos.lifespan.nanoseconds),
        liveliness=QosLiveliness[qos.liveliness.name],
        liveliness_lease_duration=_bag_time(qos.liveliness_lease_duration.nanoseconds),
        avoid_ros_namespace_conventions=qos.avoid_ros_namespace_conventions,
    )


def _bag_time(duration_ns: int) -> QosTime:
    return QosTime(*divmod(duration_ns, NS_PER_S))
