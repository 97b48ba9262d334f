"""What ``vla_ros record`` records of a robot: topics, types, and how to listen to them."""

from __future__ import annotations

from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy
from std_msgs.msg import Bool, String, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros.robot import RobotConfig
from vla_ros.ros.outputs import message_class

# Deep, so that a slow disk loses nothing for a second or two; best effort where every publisher can serve it and none
# should ever wait for a recorder.
IMAGES = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
SENSORS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
REPORTS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LINK = QoSProfile(depth=50)


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
    topics = [
        *(RecordedTopic(c.topic, CompressedImage if c.compressed else Image, IMAGES, True) for c in robot.cameras),
        RecordedTopic(robot.joint_states.topic, JointState, SENSORS, True),
        *(RecordedTopic(o.command_topic, message_class(o.kind.msgtype), REPORTS, True) for o in robot.outputs),
        # Before the task: what lies on the demo's table belongs to the episode that the next task starts.
        RecordedTopic("sim/blocks", String, LATCHED),
        RecordedTopic("vla_policy/task", String, LATCHED, True),
        RecordedTopic("vla_policy/mode", String, LATCHED),
        RecordedTopic("vla_policy/estop", Bool, LATCHED),
        RecordedTopic("vla_policy/teleop", JointTrajectory, REPORTS),
        RecordedTopic("vla_policy/chunk", JointTrajectory, REPORTS),
        RecordedTopic("vla_policy/trace", String, REPORTS),
        RecordedTopic("vla_policy/episode", String, REPORTS),
        RecordedTopic("joy", Joy, SENSORS),
        RecordedTopic("vla_model/status", DiagnosticStatus, REPORTS),
        RecordedTopic("/diagnostics", DiagnosticArray, REPORTS),
    ]
    if with_link:
        topics += [RecordedTopic(f"vla_model/{name}", UInt8MultiArray, LINK) for name in ("request", "result")]
    return tuple(topics)
