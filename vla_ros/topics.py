"""The names users know: topics, services and an action with their types, each once. Names are relative to the
robot's namespace, but for those that begin with a slash."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

POLICY_NODE, MODEL_NODE = "vla_policy", "vla_model"


class Qos(StrEnum):
    """How a topic is published: ``ros.qos`` has the profile of each."""

    SENSOR = "sensor"
    COMMAND = "command"
    LATCHED = "latched"
    REPORT = "report"


@dataclass(frozen=True)
class Service:
    """``type`` is as ROS spells it."""

    name: str
    type: str

    def __str__(self) -> str:
        return self.name

    @property
    def private(self) -> Self:
        """As the node it belongs to names it, whatever that node is called."""
        return replace(self, name=f"~/{self.name.partition('/')[2]}")


@dataclass(frozen=True)
class Topic(Service):
    """``type`` is its messages'."""

    qos: Qos


STRING, BOOL, BYTES = "std_msgs/msg/String", "std_msgs/msg/Bool", "std_msgs/msg/UInt8MultiArray"
NUMBERS, TRAJECTORY = "std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory"
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, TRIGGER = "sensor_msgs/msg/JointState", "std_srvs/srv/Trigger"
GRIPPER_COMMAND = "control_msgs/action/GripperCommand"
PARALLEL_GRIPPER_COMMAND = "control_msgs/action/ParallelGripperCommand"

TASK = Topic(f"{POLICY_NODE}/task", STRING, Qos.LATCHED)
TELEOP = Topic(f"{POLICY_NODE}/teleop", TRAJECTORY, Qos.COMMAND)
ESTOP = Topic(f"{POLICY_NODE}/estop", BOOL, Qos.LATCHED)
JOY = Topic("joy", "sensor_msgs/msg/Joy", Qos.SENSOR)
MODE = Topic(f"{POLICY_NODE}/mode", STRING, Qos.LATCHED)
CHUNK = Topic(f"{POLICY_NODE}/chunk", TRAJECTORY, Qos.REPORT)
TRACE = Topic(f"{POLICY_NODE}/trace", STRING, Qos.REPORT)
EPISODE_MARKER = Topic(f"{POLICY_NODE}/episode", STRING, Qos.REPORT)
GENERATION = Topic(f"{POLICY_NODE}/generation", STRING, Qos.LATCHED)
REQUEST = Topic(f"{MODEL_NODE}/request", BYTES, Qos.COMMAND)
RESULT = Topic(f"{MODEL_NODE}/result", BYTES, Qos.COMMAND)
STATUS = Topic(f"{MODEL_NODE}/status", "diagnostic_msgs/msg/DiagnosticStatus", Qos.COMMAND)
DIAGNOSTICS = Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", Qos.REPORT)
CLOCK = Topic("/clock", "rosgraph_msgs/msg/Clock", Qos.REPORT)

SIM_VIEW = Topic("sim/view", IMAGE, Qos.REPORT)
SIM_EPISODE = Topic("sim/episode", STRING, Qos.LATCHED)
SIM_BLOCKS = Topic("sim/blocks", STRING, Qos.LATCHED)
SIM_RESET = Topic("sim/reset", STRING, Qos.REPORT)

ENGAGE = Service(f"{POLICY_NODE}/engage", TRIGGER)
TAKEOVER = Service(f"{POLICY_NODE}/takeover", TRIGGER)
HOLD = Service(f"{POLICY_NODE}/hold", TRIGGER)
RESET_ESTOP = Service(f"{POLICY_NODE}/reset_estop", TRIGGER)
RUN_TASK = Service(f"{POLICY_NODE}/run_task", "vla_ros_msgs/action/RunTask")


def compressed(topic: str) -> str:
    """The topic beside one of images that has them as JPEG, as image_transport names it."""
    return f"{topic}/compressed"
