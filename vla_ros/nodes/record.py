"""``vla_ros record``: a robot's live topics into a rosbag2 MCAP bag, every message byte for byte as it came."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_ros.bags.write import BagWriter
from vla_ros.nodes.dds import use_default_dds_profile
from vla_ros.nodes.qos import LATCHED
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file

MESSAGE_TYPES = {
    Image: "sensor_msgs/msg/Image",
    CompressedImage: "sensor_msgs/msg/CompressedImage",
    JointState: "sensor_msgs/msg/JointState",
    JointTrajectory: "trajectory_msgs/msg/JointTrajectory",
    Float64MultiArray: "std_msgs/msg/Float64MultiArray",
    String: "std_msgs/msg/String",
}
# Deep, so that a slow disk loses nothing; best effort, which every publisher can serve.
SENSORS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMANDS = QoSProfile(depth=50)


@dataclass(frozen=True)
class TopicReport:
    """One recorded topic."""

    topic: str
    type: str
    num_messages: int


@dataclass(frozen=True)
class RecordReport:
    """What a recording holds."""

    bag: str
    seconds: float
    topics: tuple[TopicReport, ...]


def record(robot: str, bag_path: Path, duration_s: float | None) -> RecordReport:
    """Record until ``duration_s`` is over (None: until Ctrl-C); prints what was recorded.

    Raises ValueError for a robot file that cannot be used, a bag that exists, and a recording in which a topic of the
    robot file stayed silent: the bag is kept.
    """
    config = load_robot(robot_file(robot))
    use_default_dds_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    try:
        with BagWriter(bag_path) as bag:
            recorder = _Recorder(config, bag)
            print(f"recording {len(recorder.counts)} topics into {bag_path}; Ctrl-C ends it", flush=True)
            try:
                is_complete = False
                while duration_s is None or time.monotonic() - started < duration_s:
                    rclpy.spin_once(recorder, timeout_sec=0.1)
                    # Finding the topics takes a while: whoever starts something to record wants to know since when.
                    if not is_complete and all(recorder.counts[topic] for topic in recorder.needed):
                        is_complete = True
                        print("every topic of the robot file comes in", flush=True)
            except (KeyboardInterrupt, ExternalShutdownException):
                pass
            recorder.destroy_node()
    finally:
        rclpy.try_shutdown()
    report = RecordReport(
        str(bag_path),
        round(time.monotonic() - started, 2),
        tuple(TopicReport(topic, recorder.types[topic], count) for topic, count in recorder.counts.items()),
    )
    for topic in report.topics:
        print(f"{topic.num_messages:8d}  {topic.topic}  ({topic.type})")
    silent = [topic.topic for topic in report.topics if not topic.num_messages and topic.topic in recorder.needed]
    if silent:
        raise ValueError(f"nothing came on {', '.join(silent)}; check that the robot runs and its topics in {robot}")
    return report


class _Recorder(Node):
    """Subscribes to the serialized messages and appends them as they come."""

    def __init__(self, robot: RobotConfig, bag: BagWriter) -> None:
        super().__init__("vla_record")
        self._bag = bag
        self.counts: dict[str, int] = {}
        self.types: dict[str, str] = {}
        for camera in robot.cameras:
            self._add(camera.topic, CompressedImage if camera.compressed else Image, SENSORS)
        self._add(robot.joint_states.topic, JointState, SENSORS)
        for output in robot.outputs:
            kind = JointTrajectory if output.interface == "trajectory" else Float64MultiArray
            self._add(output.command_topic, kind, COMMANDS)
        self.needed = (*self.counts, self.resolve_topic_name("vla_policy/task"))
        # Before the task: what lies on the table belongs to the episode that the next task starts.
        self._add("sim/blocks", String, LATCHED)
        self._add("vla_policy/task", String, LATCHED)

    def _add(self, name: str, kind: type, qos: QoSProfile) -> None:
        topic = self.resolve_topic_name(name)
        self.counts[topic], self.types[topic] = 0, MESSAGE_TYPES[kind]
        self._bag.add_topic(topic, MESSAGE_TYPES[kind], latched=qos is LATCHED)
        self.create_subscription(kind, name, partial(self._write, topic), qos, raw=True)

    def _write(self, topic: str, data: bytes, info: dict[str, Any]) -> None:
        # The middleware's own time of arrival: this process may be late in looking.
        self._bag.write_raw(topic, data, info["received_timestamp"])
        self.counts[topic] += 1
