from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rosbags")
from bag_helpers import messages_by_topic
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader
from rosbags.typesys import get_types_from_msg

from vla_ros.bags.read import BagReader
from vla_ros.bags.write import BagWriter
from vla_ros.bags.write_mcap import MAX_CHUNK_BYTES

SOURCE_ROOT = Path(__file__).parents[2]
FOREVER = QosTime(9223372036, 854775807)
LATCHED = Qos(
    history=QosHistory.UNKNOWN,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=FOREVER,
    lifespan=FOREVER,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=FOREVER,
    avoid_ros_namespace_conventions=False,
)
MESSAGES = [
    (topic, bytes([i]) * (1000 * (i % 5) + 4), 10_000 + 7 * i - 20 * (topic == "/task"))
    for i in range(60)
    for topic in ("/image", "/task")
]


def write_bag(path: Path, flush_every: int = 9, compress: bool = False) -> Path:
    with BagWriter(path, compress) as bag:
        for i, (topic, data, stamp_ns) in enumerate(MESSAGES):
            if i == 0:
                bag.add_topic("/image", "sensor_msgs/msg/Image", [LATCHED, LATCHED])
            if i == 1:
                bag.add_topic("/task", "std_msgs/msg/String", [LATCHED])
            bag.write(topic, data, stamp_ns)
            if i % flush_every == 0:
                bag.flush()
    return path


def run_writer(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A process that writes into ``bag`` and then does ``code``."""
    start = (
        "import os, resource, sys; from vla_ros.bags.write import BagWriter\n"
        "bag = BagWriter(sys.argv[1]); bag.add_topic('/image', 'sensor_msgs/msg/Image', [])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    return subprocess.run([sys.executable, "-c", start + code, str(path)], capture_output=True, text=True, env=env)


def information(path: Path) -> dict:
    return yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]


@pytest.mark.parametrize("compress", [False, True])
def test_a_finished_bag_gives_back_every_byte_in_the_order_of_time(tmp_path, compress):
    ours = BagReader(write_bag(tmp_path / "bag", compress=compress))
    in_order = sorted(MESSAGES, key=lambda message: message[2])
    assert [(raw.topic, bytes(raw.data), raw.stamp_ns) for raw in ours.messages()] == in_order and not ours.problems
    assert [topic.num_messages for topic in ours.contents.topics] == [60, 60]
    with Reader(tmp_path / "bag") as reader:
        read = [(connection.topic, bytes(data), stamp_ns) for connection, stamp_ns, data in reader.messages()]
        assert reader.message_count == len(MESSAGES)
    # Chunks, too, overlap in time: what came late stands between what came early.
    assert read == in_order


def test_a_bag_is_compressed_where_that_is_asked_for(tmp_path):
    plain, packed = (write_bag(tmp_path / str(compress), compress=compress) for compress in (False, True))
    sizes = [sum(file.stat().st_size for file in bag.glob("*.mcap")) for bag in (plain, packed)]
    assert sizes[1] < 0.5 * sizes[0]


def test_the_file_itself_is_in_the_order_of_time_between_two_flushes(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/image", "sensor_msgs/msg/Image", [])
        for stamp_ns in (5, 3, 9, 4):
            bag.write("/image", b"%d" % stamp_ns, stamp_ns)
    assert [stamp_ns for stamp_ns, _ in messages_by_topic(tmp_path / "bag")["/image"]] == [3, 4, 5, 9]


def test_a_message_of_one_topic_is_found_without_the_others(tmp_path):
    with Reader(write_bag(tmp_path / "bag")) as reader:
        chosen = [connection for connection in reader.connections if connection.topic == "/task"]
        read = [bytes(data) for _, _, data in reader.messages(connections=chosen, start=10_100, stop=10_200)]
    assert read == [data for topic, data, stamp_ns in MESSAGES if topic == "/task" and 10_100 <= stamp_ns < 10_200]


def test_the_bag_says_types_definitions_and_offered_qos(tmp_path):
    with Reader(write_bag(tmp_path / "bag")) as reader:
        image, task = reader.connections
        assert (image.msgtype, task.msgtype) == ("sensor_msgs/msg/Image", "std_msgs/msg/String")
        assert (image.msgcount, task.msgcount) == (60, 60)
        assert image.ext.offered_qos_profiles == [LATCHED, LATCHED] and task.ext.offered_qos_profiles == [LATCHED]
        types = get_types_from_msg(image.msgdef.data, image.msgtype)
        assert {"sensor_msgs/msg/Image", "std_msgs/msg/Header"} <= types.keys()
        # As ROS itself says on topics of this type.
        assert task.digest == "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"


def test_the_metadata_are_of_the_version_that_jazzy_writes(tmp_path):
    found = information(write_bag(tmp_path / "some bag: 'this'"))
    assert (found["version"], found["storage_identifier"], found["message_count"]) == (9, "mcap", 120)
    assert found["relative_file_paths"] == ["some bag: 'this'_0.mcap"] == [found["files"][0]["path"]]
    assert found["starting_time"]["nanoseconds_since_epoch"] == min(stamp_ns for _, _, stamp_ns in MESSAGES)
    assert found["duration"]["nanoseconds"] == 59 * 7 + 20
    topic = found["topics_with_message_count"][1]["topic_metadata"]
    assert topic["name"] == "/task" and topic["serialization_format"] == "cdr"
    assert topic["offered_qos_profiles"][0]["durability"] == "transient_local"
    assert topic["offered_qos_profiles"][0]["deadline"] == {"sec": 9223372036, "nsec": 854775807}


def test_a_bag_without_messages_is_a_bag(tmp_path):
    with BagWriter(tmp_path / "bag"):
        assert information(tmp_path / "bag")["message_count"] == 0
    with Reader(tmp_path / "bag") as reader:
        assert (reader.message_count, reader.connections) == (0, [])


def test_a_message_larger_than_a_chunk_comes_back(tmp_path):
    data = os.urandom(MAX_CHUNK_BYTES + 5)
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/image", "sensor_msgs/msg/Image", [])
        for stamp_ns in range(3):
            bag.write("/image", data, stamp_ns)
    with Reader(tmp_path / "bag") as reader:
        assert [bytes(read) for _, _, read in reader.messages()] == [data] * 3


def test_a_killed_process_leaves_all_that_was_flushed_and_says_so(tmp_path):
    write = "[bag.write('/image', bytes([i]) * 100_000, i) for i in range({})]\n"
    code = write.format(70) + "bag.flush()\n" + write.format(3) + "os.kill(os.getpid(), 9)\n"
    assert run_writer(code, tmp_path / "bag").returncode == -signal.SIGKILL
    assert messages_by_topic(tmp_path / "bag") == {"/image": [(i, bytes([i]) * 100_000) for i in range(70)]}
    assert information(tmp_path / "bag")["topics_with_message_count"][0]["message_count"] == 70


def test_a_full_disk_ends_in_one_line_and_a_bag_with_all_that_went_before(tmp_path):
    limit = 2 * MAX_CHUNK_BYTES + 1_000_000
    code = (
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    with bag:\n"
        "        [bag.write('/image', bytes([i]) * 100_000, i) for i in range(200)]\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    run = run_writer(code, tmp_path / "bag")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1 and f"bag {tmp_path / 'bag'}: File too large" in run.stdout
    with Reader(tmp_path / "bag") as reader:
        read = [(stamp_ns, bytes(data)) for _, stamp_ns, data in reader.messages()]
        assert reader.message_count == len(read) == information(tmp_path / "bag")["message_count"]
    assert read == [(i, bytes([i]) * 100_000) for i in range(84)]


def test_a_folder_that_exists_is_left_alone(tmp_path):
    write_bag(tmp_path / "bag")
    before = {path: path.read_bytes() for path in (tmp_path / "bag").iterdir()}
    with pytest.raises(ValueError, match="exists; give a folder"):
        BagWriter(tmp_path / "bag")
    assert {path: path.read_bytes() for path in (tmp_path / "bag").iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=f"bag {tmp_path}/file/bag: Not a directory"):
        BagWriter(tmp_path / "file" / "bag")
