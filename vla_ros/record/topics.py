"""What ``vla_ros record`` records of a robot: topics, types, and how to listen to them."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros import topics
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import interface_class
from vla_ros.topics import Qos, Topic

# Deep, so that a slow disk loses nothing for a second or two; best effort where every publisher can serve it and none
# should ever wait for a recorder.
IMAGES = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
SENSORS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
REPORTS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LINK = QoSProfile(depth=50)
LISTENING = {Qos.SENSOR: SENSORS, Qos.LATCHED: LATCHED, Qos.COMMAND: REPORTS, Qos.REPORT: REPORTS}
NAMED = (
    topics.SIM_BLOCKS, topics.TASK, topics.MODE, topics.ESTOP, topics.TELEOP, topics.CHUNK,
    topics.TRACE, topics.EPISODE_MARKER, topics.JOY, topics.STATUS, topics.DIAGNOSTICS,
)  # fmt: skip
"""In the order in which to subscribe. Before the task: what lies on the demo's table belongs to the episode that the
next task starts."""


@dataclass(frozen=True)
class RecordedTopic:
    """A topic by the name that nodes give it; one that ``is_needed`` is missed where nothing comes."""

    name: str
    kind: type
    qos: QoSProfile
    is_needed: bool = False

    @property
    def msgtype(self) -> str:
        """Such as ``sensor_msgs/msg/Image``."""
        return "/".join((*self.kind.__module__.split(".")[:2], self.kind.__name__))


def recorded_topics(robot: RobotConfig, with_link: bool) -> tuple[RecordedTopic, ...]:
    """Everything of ``robot`` that training and replay read, in the order in which to subscribe."""
    recorded = [
        *(RecordedTopic(c.topic, CompressedImage if c.compressed else Image, IMAGES, True) for c in robot.cameras),
        RecordedTopic(robot.joint_states.topic, JointState, SENSORS, True),
        *(RecordedTopic(o.command_topic, interface_class(o.kind.msgtype), REPORTS, True) for o in robot.outputs),
        *map(_recorded, NAMED),
    ]
    if with_link:
        recorded += [
            RecordedTopic(topic.name, interface_class(topic.type), LINK) for topic in (topics.REQUEST, topics.RESULT)
        ]
    return tuple(recorded)


def _recorded(topic: Topic) -> RecordedTopic:
    return RecordedTopic(topic.name, interface_class(topic.type), LISTENING[topic.qos], topic is topics.TASK)
