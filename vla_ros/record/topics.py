"""What ``vla_ros record`` records of a robot: topics, types, and how to listen to them."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vla_ros import topics
from vla_ros.hands import hands_of
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import interface_class
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING, Qos

# Deep, so that a slow disk loses nothing for a second or two; best effort where every publisher can serve it and none
# should ever wait for a recorder.
IMAGES = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
SENSORS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
REPORTS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LINK = QoSProfile(depth=50)
LISTENING = {Qos.SENSOR: SENSORS, Qos.LATCHED: LATCHED, Qos.COMMAND: REPORTS, Qos.REPORT: REPORTS}
NAMED = (
    topics.SIM_BLOCKS, topics.TASK, topics.MODE, topics.ESTOP, topics.CHUNK,
    topics.TRACE, topics.EPISODE_MARKER, topics.GENERATION, topics.JOY, topics.STATUS, topics.DIAGNOSTICS,
)  # fmt: skip
"""In the order in which to subscribe. Before the task: what lies on the demo's table belongs to the episode that the
next task starts."""


@dataclass(frozen=True)
class RobotTopic:
    """A topic by the name that nodes give it; one that ``is_needed`` is missed where nothing comes, and so is each of
    ``joint_names``, where its messages are joint states."""

    name: str
    msgtype: str
    qos: QoSProfile
    is_needed: bool = False
    joint_names: tuple[str, ...] = ()

    @property
    def kind(self) -> type:
        """The class of its messages."""
        return interface_class(self.msgtype)


def recorded_topics(robot: RobotConfig, with_link: bool) -> tuple[RobotTopic, ...]:
    """Everything of ``robot`` that training and replay read, in the order in which to subscribe."""
    recorded = [
        *(RobotTopic(c.topic, COMPRESSED_IMAGE if c.compressed else IMAGE, IMAGES, True) for c in robot.cameras),
        *(RobotTopic(topic, JOINT_STATE, SENSORS, True, tuple(own)) for topic, own in robot.joint_columns.items()),
        *(RobotTopic(o.set_point_topic, o.set_points.msgtype, REPORTS, True) for o in robot.outputs),
        *(RobotTopic(t.name, t.type, LISTENING[t.qos], t is topics.TASK) for t in NAMED),
        *(RobotTopic(hand.topic.name, hand.topic.type, LISTENING[hand.topic.qos]) for hand in hands_of(robot)),
    ]
    if robot.urdf_topic:
        recorded.append(RobotTopic(robot.urdf_topic, STRING, LATCHED))
    if with_link:
        recorded += [RobotTopic(topic.name, topic.type, LINK) for topic in (topics.REQUEST, topics.RESULT)]
    return tuple(recorded)
