"""``vla_ros record`` as a process of its own: what is published is in the bag, byte for byte, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from bag_helpers import messages_by_topic
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from ros_harness import SOURCE_ROOT, wait_until
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros.bags.read import BagReader
from vla_ros.messages.images import encode_image
from vla_ros.recordings.feed import Feed
from vla_ros.robot import load_robot
from vla_ros.types import Frame

ROBOT_FILE = Path(__file__).parents[1] / "data" / "three_joints.yaml"
# Deep, or a publisher that hurries would overwrite what is still to be sent.
SENSOR = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=100)
# In which what was published last is heard, which shows nowhere before the recording ends.
SETTLE_S = 0.5
TOPICS = {
    "front/image": (Image, SENSOR),
    "top/image": (Image, SENSOR),
    "joint_states": (JointState, SENSOR),
    "joint_trajectory_controller/joint_trajectory": (JointTrajectory, RELIABLE),
    "vla_policy/task": (String, LATCHED),
    "vla_policy/mode": (String, LATCHED),
    "vla_policy/chunk": (JointTrajectory, RELIABLE),
    "vla_policy/teleop": (JointTrajectory, RELIABLE),
    "vla_model/request": (UInt8MultiArray, RELIABLE),
}
# Fast DDS carries whole words: every subscriber gets what was published filled up with zeros.
WORD = 4


class Robot:
    """Publishers of ``TOPICS``; remembers every byte it published."""

    def __init__(self, namespace: str = "", **others: tuple[type, QoSProfile]) -> None:
        self.node = rclpy.create_node("robot", namespace=namespace)
        self.published: dict[str, list[bytes]] = defaultdict(list)
        self.picture: np.ndarray | None = None
        self.joint_names = load_robot(ROBOT_FILE).joint_names
        self._count = 0
        self._publishers = {}
        for name, (kind, profile) in {**TOPICS, **others}.items():
            self._publishers[name] = self.node.create_publisher(kind, name, profile)

    def publish(self, *names: str) -> None:
        """One more message on each topic, or on ``names``, different from every other."""
        self._count += 1
        for name in names or self._publishers:
            publisher = self._publishers[name]
            data = serialize_message(self._message(publisher.msg_type))
            publisher.publish(data)
            self.published[self.node.resolve_topic_name(name)].append(data + bytes(-len(data) % WORD))

    def publish_until(self, is_over, what: str, but: Collection[str] = ()) -> None:
        names = [name for name in self._publishers if self.node.resolve_topic_name(name) not in but]

        def step() -> bool:
            self.publish(*names)
            return is_over()

        wait_until(step, what, 60.0)

    def _message(self, kind: type) -> object:
        text = f"message {self._count}"
        if kind is String:
            return String(data=text)
        if kind is UInt8MultiArray:
            return UInt8MultiArray(data=text.encode())
        message = kind()
        message.header.frame_id = text
        if kind is JointState:
            message.name = list(self.joint_names)
        if kind is Image and self.picture is not None:
            encode_image(self.picture, message, self.node.get_clock().now().nanoseconds, text)
        elif kind is Image:
            message.data = os.urandom(4 * 1000)
        return message


class Recording:
    """``vla_ros record`` as a process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.bag, self.json = folder / "bag", folder / "figures.json"
        self._log = folder / "record.log"
        env = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
        env["PYTHONPATH"] = os.pathsep.join([str(SOURCE_ROOT), env.get("PYTHONPATH", "")])
        command = ["record", "--robot", str(ROBOT_FILE), "--out", str(self.bag), "--json", str(self.json), *arguments]
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vla_ros.cli", *command], stdout=file, stderr=subprocess.STDOUT, env=env
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self, *numbers: signal.Signals) -> int:
        """Send signals; the exit code."""
        for number in numbers:
            self.process.send_signal(number)
        return self.process.wait(30.0)

    def read(self) -> dict[str, list[bytes]]:
        """The bytes of each topic of the finished bag."""
        found = defaultdict(list)
        with Reader(self.bag) as reader:
            for connection, _, data in reader.messages():
                found[connection.topic].append(bytes(data))
        return found


@pytest.fixture
def start_recording(tmp_path: Path) -> Iterator:
    started: list[Recording] = []

    def start(*arguments: str) -> Recording:
        started.append(Recording(tmp_path, *arguments))
        return started[-1]

    yield start
    for recording in started:
        if recording.process.poll() is None:
            recording.process.kill()
            recording.process.wait()


@pytest.fixture
def make_robot(ros: None) -> Iterator:
    made: list[Robot] = []

    def make(**arguments) -> Robot:
        made.append(Robot(**arguments))
        return made[-1]

    yield make
    for robot in made:
        robot.node.destroy_node()


def num_published(robot: Robot) -> dict[str, int]:
    return {topic: len(published) for topic, published in robot.published.items()}


def wait_until_flushed(bag: Path) -> None:
    """Until two renewals of the metadata in a row, with nothing new between them."""
    said: list[tuple[int, str]] = []

    def is_settled() -> bool:
        path = bag / "metadata.yaml"
        renewal = path.stat().st_mtime_ns, path.read_text()
        if not said or said[-1][0] != renewal[0]:
            said.append(renewal)
        return len(said) > 2 and said[-3][1] == said[-2][1] == said[-1][1]

    wait_until(is_settled, "the metadata to be renewed")


def assert_holds(recorded: list[bytes], published: list[bytes], num_last: int) -> None:
    """Nothing but what was published, each once; the last of it whole and in order, discovery being over."""
    numbers = [published.index(data) for data in recorded]
    assert len(set(numbers)) == len(numbers)
    last = [number for number in numbers if number >= len(published) - num_last]
    assert last == list(range(len(published) - num_last, len(published)))


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_recording_is_a_finished_bag_with_every_byte_that_was_published(
    make_robot, start_recording, signals
):
    robot = make_robot()
    recording = start_recording("--link")
    robot.publish_until(lambda: "every topic of the robot file comes in" in recording.log, "all topics to be heard")
    for _ in range(50):
        robot.publish()
        time.sleep(0.01)  # a best effort reader keeps a few at most
    time.sleep(SETTLE_S)
    assert recording.end(*signals) == 0, recording.log
    recorded = recording.read()
    assert recorded.keys() == robot.published.keys()
    for topic, published in robot.published.items():
        assert_holds(recorded[topic], published, num_last=50)
    figures = {topic["topic"]: topic for topic in json.loads(recording.json.read_text())["topics"]}
    assert figures["/joint_states"]["num_messages"] == len(recorded["/joint_states"])
    assert 5.0 < figures["/joint_states"]["rate_hz"] < 200.0
    assert "/joint_states  (sensor_msgs/msg/JointState)" in recording.log


def test_a_joint_that_no_message_names_is_named_beside_those_that_came(make_robot, start_recording):
    robot = make_robot()
    *named, missing = robot.joint_names
    robot.joint_names = (*named, "jaw")
    recording = start_recording()
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard")
    assert recording.end(signal.SIGINT) == 1, recording.log
    line = f"no message of /joint_states named {missing}; they named {', '.join(named)}, jaw: check the joint names in "
    assert line in recording.log


def test_limits_of_a_topic_are_waited_for_and_recorded(make_robot, start_recording, tmp_path):
    document = yaml.safe_load(ROBOT_FILE.read_text()) | {"urdf_topic": "robot_description"}
    joints = [
        f'<joint name="{joint["name"]}" type="revolute"><limit lower="{joint["lower"]}" upper="{joint["upper"]}" '
        f'velocity="{joint.pop("max_velocity")}"/></joint>'
        for joint in document["joints"]
    ]
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(document))
    robot, urdf = make_robot(), String(data=f'<robot name="arm">{"".join(joints)}</robot>')
    robot.node.create_publisher(String, "robot_description", LATCHED).publish(urdf)
    recording = start_recording("--robot", str(path))
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard")
    assert recording.end(signal.SIGINT) == 0, recording.log
    data = serialize_message(urdf)
    assert recording.read()["/robot_description"] == [data + bytes(-len(data) % WORD)]


def test_what_was_latched_before_the_recording_is_in_it_with_its_qos(make_robot, start_recording):
    robot = make_robot()
    robot.publish("vla_policy/task", "vla_policy/mode")
    latched = dict(robot.published)
    recording = start_recording()
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard", but=latched)
    assert recording.end(signal.SIGINT) == 0, recording.log
    recorded = recording.read()
    assert {topic: recorded[topic] for topic in latched} == latched
    assert "/vla_model/request" not in recorded  # only with --link
    with Reader(recording.bag) as reader:
        offered = {connection.topic: connection.ext.offered_qos_profiles[0] for connection in reader.connections}
    assert offered["/vla_policy/task"].durability == QosDurability.TRANSIENT_LOCAL
    assert offered["/front/image"].reliability == QosReliability.BEST_EFFORT
    assert offered["/vla_policy/chunk"].durability == QosDurability.VOLATILE
    assert offered["/vla_policy/chunk"].reliability == QosReliability.RELIABLE


def test_a_killed_recording_lacks_only_what_came_after_the_last_renewal_of_its_metadata(make_robot, start_recording):
    robot = make_robot()
    recording = start_recording()
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard")
    heard = num_published(robot)
    for _ in range(100):
        robot.publish()
        time.sleep(0.01)  # as above
    flushed = num_published(robot)
    wait_until_flushed(recording.bag)
    for _ in range(20):
        robot.publish()
    assert recording.end(signal.SIGKILL) == -signal.SIGKILL
    recorded = {topic: [data for _, data in found] for topic, found in messages_by_topic(recording.bag).items()}
    metadata = yaml.safe_load((recording.bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    topics = metadata["topics_with_message_count"]
    counts = {topic["topic_metadata"]["name"]: topic["message_count"] for topic in topics}
    for topic in robot.published.keys() - {"/vla_model/request"}:
        num_whole = robot.published[topic].index(recorded[topic][-1]) + 1
        assert num_whole >= flushed[topic], topic
        assert_holds(recorded[topic], robot.published[topic][:num_whole], num_last=num_whole - heard[topic])
        assert 0 < counts[topic] <= len(recorded[topic])


def test_a_robot_in_a_namespace_with_a_renamed_camera_is_recorded_by_its_own_names(make_robot, start_recording):
    robot = make_robot(namespace="left", **{"cam0": (Image, SENSOR)})
    remapping = ["--ros-args", "-r", "front/image:=cam0"]
    recording = start_recording("--namespace", "left", "--duration", "60", *remapping)
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard")
    time.sleep(SETTLE_S)
    assert recording.end(signal.SIGINT) == 0, recording.log
    recorded = recording.read()
    assert recorded.keys() == robot.published.keys() - {"/left/front/image", "/left/vla_model/request"}
    assert_holds(recorded["/left/cam0"], robot.published["/left/cam0"], num_last=1)


def test_a_publisher_of_weaker_qos_is_recorded_and_one_of_another_type_is_named(make_robot, start_recording):
    changed = {"vla_policy/teleop": (JointTrajectory, SENSOR), "front/image": (String, SENSOR)}
    robot = make_robot(**changed, **{"vla_policy/mode": (String, SENSOR)})
    recording = start_recording("--duration", "5")
    wait_until(lambda: recording.log, "the recording", 60.0)
    robot.publish_until(lambda: recording.process.poll() is not None, "the recording's end")
    assert recording.end() == 1
    recorded = recording.read()
    for topic in ("/vla_policy/teleop", "/vla_policy/mode"):
        assert recorded[topic] and set(recorded[topic]) <= set(robot.published[topic])
    assert "/front/image" not in recorded
    assert "/front/image is published as std_msgs/msg/String" in recording.log
    assert "nothing came on /front/image;" in recording.log
    assert len(json.loads(recording.json.read_text())["problems"]) == 2


def test_under_simulated_time_messages_bear_it_and_none_is_recorded_before_it_begins(make_robot, start_recording):
    robot = make_robot()
    clock = robot.node.create_publisher(Clock, "/clock", 1)
    recording = start_recording("--use-sim-time", "--duration", "3")
    wait_until(lambda: clock.get_subscription_count(), "the recorder to ask for the time", 60.0)
    assert "recording" not in recording.log
    sim_s = 500

    def step() -> bool:
        nonlocal sim_s
        sim_s += 1
        message = Clock()
        message.clock.sec = sim_s
        clock.publish(message)
        robot.publish()
        return recording.process.poll() is not None

    wait_until(step, "the recording's end", 60.0)
    assert recording.end() == 0, recording.log
    with Reader(recording.bag) as reader:
        stamps_s = [stamp_ns / 1e9 for _, stamp_ns, _ in reader.messages()]
    assert all(500 < stamp_s <= sim_s and stamp_s.is_integer() for stamp_s in stamps_s)
    assert stamps_s[-1] > stamps_s[0]


@pytest.mark.parametrize("how", ["zstd", "jpeg"])
def test_compressed_recordings_hold_the_same_pictures_and_everything_else_byte_for_byte(
    make_robot, start_recording, how
):
    robot = make_robot()
    robot.picture = (np.indices((24, 32)).sum(axis=0)[..., None] * (4, 3, 2)).astype(np.uint8)
    recording = start_recording("--compress", how, "--quality", "100")
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard")
    time.sleep(SETTLE_S)
    assert recording.end(signal.SIGINT) == 0, recording.log
    metadata = yaml.safe_load((recording.bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    recorded = recording.read()
    images = {topic for topic in robot.published if topic.endswith("image")}
    for topic in robot.published.keys() - (images if how == "jpeg" else set()) - {"/vla_model/request"}:
        assert_holds(recorded[topic], robot.published[topic], num_last=1)
    frames = [event.said for event in Feed(BagReader(recording.bag), load_robot(ROBOT_FILE)) if is_frame(event)]
    assert {frame.camera for frame in frames} == {"front", "top"}
    if how == "zstd":
        assert metadata["custom_data"] is None
        assert all(np.array_equal(frame.image, robot.picture) for frame in frames)
    else:
        assert not images & recorded.keys() and "images as JPEG of quality 100" in recording.log
        assert metadata["custom_data"] == {"jpeg_quality": "100"}
        errors = [np.abs(frame.image.astype(int) - robot.picture).mean() for frame in frames]
        assert max(errors) < 2.0


def is_frame(event) -> bool:
    return isinstance(event.said, Frame)


def test_an_image_that_cannot_become_a_jpeg_is_recorded_as_it_came_and_that_is_said(make_robot, start_recording):
    robot = make_robot()  # its images are no pictures
    recording = start_recording("--compress", "jpeg")
    robot.publish_until(lambda: "every topic" in recording.log, "all topics to be heard")
    time.sleep(SETTLE_S)
    assert recording.end(signal.SIGINT) == 1
    assert_holds(recording.read()["/front/image"], robot.published["/front/image"], num_last=1)
    assert "images of /front/image are recorded as they came, not as JPEG: image" in recording.log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--compress", "gif"), "--compress is 'gif'; expected one of none, zstd, jpeg"),
        (("--compress", "jpeg", "--quality", "0"), "--quality is 0; expected 1 to 100"),
    ],
)
def test_a_compression_that_there_is_not_ends_in_one_line(start_recording, arguments, said):
    recording = start_recording(*arguments)
    assert recording.end() == 2 and recording.log.strip() == f"vla_ros record: {said}"


def test_a_graph_without_a_robot_ends_in_one_line_and_exit_code_2(ros, start_recording):
    recording = start_recording("--duration", "0.5")
    assert recording.end() == 2
    assert "vla_ros record: nothing came on any of " in recording.log.splitlines()[-1]
