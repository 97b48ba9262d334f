"""Bags of every kind."""

import shutil
import sqlite3
import struct

import lz4.frame
import numpy as np
import pytest
import yaml
from bag_helpers import read_bag
from bag_samples import (
    IMAGE,
    JOINT_STATE,
    MCAP,
    SQLITE,
    STRING,
    as_humble,
    at,
    expected_texts,
    image,
    joint_state,
    read_stamps,
    read_texts,
    storage_file,
    string,
    texts,
    write_bag,
    write_plain_mcap,
)
from rosbags.rosbag2 import CompressionMode
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla_ros.bags import read as reading
from vla_ros.bags.definitions import TYPES
from vla_ros.bags.files import find_bags
from vla_ros.bags.mcap import MAGIC
from vla_ros.bags.read import BagReader
from vla_ros.bags.storage import BagTopic

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def mixed_messages():
    return [
        ("/text", string("hello"), at(0)),
        ("/camera", image(at(0.1), PIXELS), at(0.11)),
        ("/joint_states", joint_state(at(0.2), ["a", "b"], [1.0, 2.0]), at(0.21)),
    ]


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("version", [None, 5, 7, 8])
def test_a_bag_of_every_distribution_gives_its_messages_with_types_and_times(tmp_path, storage, version):
    bag = write_bag(tmp_path / "bag", mixed_messages(), storage)
    if version is not None:
        as_humble(bag, version)
    text, camera, joints = read_bag(bag)
    assert (text.topic, text.msgtype, text.stamp_ns, text.message.data) == ("/text", STRING, at(0), "hello")
    assert camera.msgtype == IMAGE and np.array_equal(camera.message.data, PIXELS.reshape(-1))
    assert joints.msgtype == JOINT_STATE and joints.message.position.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (MCAP, CompressionMode.STORAGE),
        (MCAP, CompressionMode.MESSAGE),
        (MCAP, CompressionMode.FILE),
        (SQLITE, CompressionMode.MESSAGE),
        (SQLITE, CompressionMode.FILE),
    ],
)
def test_a_compressed_bag_gives_the_same_messages(tmp_path, storage, compression):
    bag = write_bag(tmp_path / "bag", texts(5) + mixed_messages()[1:2], storage, compression)
    *read, camera = read_bag(bag)
    assert {message.message.data for message in read if message.topic == "/text"} <= set(expected_texts(5))
    images = [message for message in [*read, camera] if message.topic == "/camera"]
    assert len(read) == 5 and np.array_equal(images[0].message.data, PIXELS.reshape(-1))


def test_chunks_compressed_with_lz4_are_read(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(5))
    data = storage_file(bag).read_bytes()
    start = data.index(b"\x06", len(MAGIC) + 9 + struct.unpack_from("<Q", data, len(MAGIC) + 1)[0])
    (size,) = struct.unpack_from("<Q", data, start + 1)
    chunk = data[start + 9 : start + 9 + size]
    packed = lz4.frame.compress(chunk[28 + 4 + 8 :])
    chunk = chunk[:28] + struct.pack("<I", 3) + b"lz4" + struct.pack("<Q", len(packed)) + packed
    storage_file(bag).write_bytes(data[:start] + struct.pack("<BQ", 6, len(chunk)) + chunk + data[start + 9 + size :])
    read, problems = read_texts(bag)
    assert read == expected_texts(5) and len(problems) == 1 and "index" in problems[0]


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_lone_file_is_a_bag(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", texts(5), storage)
    assert read_texts(storage_file(bag)) == (expected_texts(5), ())


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_bag_says_what_it_holds_before_it_is_read(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", texts(5) + texts(3, "/other"), storage)
    contents = BagReader(bag).contents
    assert contents.topics == (BagTopic("/other", STRING, 3), BagTopic("/text", STRING, 5))
    assert (contents.start_ns, contents.end_ns) == (at(0), at(0.4))


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_only_the_topics_asked_for_are_given(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", texts(5) + [("/other", string("no"), at(0))], storage)
    assert [message.topic for message in read_bag(bag, ["/text"])] == ["/text"] * 5


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_the_files_of_a_split_bag_follow_each_other(tmp_path, storage):
    names = []
    for i in (0, 1, 10):
        part = write_bag(tmp_path / f"part_{i}", [("/text", string(f"text {i}"), at(i))], storage)
        names.append(f"part_{i}{storage_file(part).suffix}")
    bag = tmp_path / "bag"
    bag.mkdir()
    for i, name in zip((0, 1, 10), names, strict=True):
        shutil.copy(storage_file(tmp_path / f"part_{i}"), bag / name)
    document = {"rosbag2_bagfile_information": {"relative_file_paths": names}}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(document))
    assert read_texts(bag) == (["text 0", "text 1", "text 10"], ())
    (bag / "metadata.yaml").unlink()
    read, problems = read_texts(bag)
    assert read == ["text 0", "text 1", "text 10"]
    assert len(problems) == 1 and "metadata.yaml cannot be read" in problems[0] and str(bag) in problems[0]


def test_a_type_that_ros_does_not_know_is_read_by_the_bags_definition(tmp_path):
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg("float64 weight\nstring[] names\n", "scales/msg/Load"))
    load = types.types["scales/msg/Load"](2.5, ["left", "right"])
    bag = write_bag(tmp_path / "bag", [("/load", load, at(0))], typestore=types)
    (message,) = read_bag(bag)
    assert message.message.weight == 2.5 and message.message.names == ["left", "right"]
    reader = BagReader(bag)
    assert [reader.layout(raw.topic).is_standard for raw in reader.messages()] == [False]


def test_a_type_that_nobody_defines_is_refused_by_name(tmp_path):
    types = get_typestore(Stores.ROS2_JAZZY)
    types.register(get_types_from_msg("float64 weight\n", "scales/msg/Load"))
    load = types.types["scales/msg/Load"](2.5)
    bag = as_humble(write_bag(tmp_path / "bag", [("/load", load, at(0))], SQLITE, typestore=types))
    with pytest.raises(ValueError, match="does not define scales/msg/Load"):
        list(read_bag(bag))


def test_a_definition_in_idl_is_read(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(3), SQLITE)
    idl = "module std_msgs { module msg { struct String { string data; }; }; };"
    connection = sqlite3.connect(storage_file(bag))
    definition = "=" * 80 + f"\nIDL: std_msgs/msg/String\n{idl}\n"
    change = "UPDATE message_definitions SET encoding = 'ros2idl', encoded_message_definition = ?"
    connection.execute(change, (definition,))
    connection.commit()
    connection.close()
    assert read_texts(bag) == (expected_texts(3), ())


@pytest.mark.parametrize(
    ("encoding", "definition"),
    [("protobuf", bytes(range(128, 256))), ("ros2msg", "float64 angle  # in °".encode("latin-1"))],
    ids=["binary", "latin-1"],
)
def test_a_definition_that_is_not_text_costs_nothing_beside_it(tmp_path, encoding, definition):
    foreign = ("/foreign", "somebody.Message", encoding, definition, [b"\xff\x00", b"\xfe"])
    texts_channel = (
        "/text",
        STRING,
        "ros2msg",
        b"string data  # at 20 \xb0C\n",
        [string(text) for text in expected_texts(3)],
    )
    path = write_plain_mcap(tmp_path / "of_another.mcap", foreign, texts_channel)
    read, problems = read_texts(path, ["/text"])
    assert read == expected_texts(3) and len(problems) == 1 and "index" in problems[0]


@pytest.mark.parametrize(
    ("topic", "msgtype", "ending"),
    [("/joints", "sensor_msgs/JointState", "\n"), ("joints", JOINT_STATE, "\n"), ("/joints", JOINT_STATE, "\r\n")],
    ids=["without msg", "without a slash", "crlf"],
)
@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_other_writers_spellings_mean_the_same(tmp_path, storage, topic, msgtype, ending):
    definition = TYPES.generate_msgdef(JOINT_STATE)[0].replace("\n", ending)
    message = joint_state(at(0), ["a"], [1.0])
    if storage == MCAP:
        path = write_plain_mcap(tmp_path / "a.mcap", (topic, msgtype, "ros2msg", definition, [message]))
    else:
        path = storage_file(write_bag(tmp_path / "bag", [("/joints", message, at(0))], SQLITE))
        connection = sqlite3.connect(path)
        connection.execute("UPDATE topics SET name = ?, type = ?", (topic, msgtype))
        change = "UPDATE message_definitions SET topic_type = ?, encoded_message_definition = ?"
        connection.execute(change, (msgtype, definition))
        connection.commit()
        connection.close()
    reader = BagReader(path)
    (read,) = reader.messages(["/joints"])
    assert read.msgtype == JOINT_STATE and reader.layout("/joints").is_standard
    assert reader.decode(read).name == ["a"]


def test_a_schema_that_breaks_off_costs_its_own_topic_only(tmp_path):
    broken = write_plain_mcap(
        tmp_path / "broken.mcap",
        ("/foreign", "somebody.Message", "protobuf", b"12345678", [b""]),
        ("/text", STRING, "ros2msg", b"string data\n", [string(text) for text in expected_texts(3)]),
    )
    length = struct.pack("<I", 8) + b"12345678"
    broken.write_bytes(broken.read_bytes().replace(length, struct.pack("<I", 800) + b"12345678"))
    assert read_texts(broken, ["/text"])[0] == expected_texts(3)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE topics SET name = x'ff80', type = x'ff' WHERE name = '/foreign'",
        "UPDATE message_definitions SET encoded_message_definition = CAST(encoded_message_definition AS BLOB)",
        "ALTER TABLE message_definitions RENAME COLUMN encoding TO how",
    ],
)
def test_what_another_writer_left_in_sqlite_costs_its_own_topic_only(tmp_path, change):
    foreign = ("/foreign", joint_state(at(0), ["a"], [1.0]), at(0))
    bag = write_bag(tmp_path / "bag", [*texts(3), foreign], SQLITE)
    connection = sqlite3.connect(storage_file(bag))
    connection.execute(change)
    connection.commit()
    connection.close()
    assert read_texts(bag, ["/text"]) == (expected_texts(3), ())


def test_a_message_at_a_time_that_ros_cannot_hold_is_left_out_and_told(tmp_path):
    path = write_plain_mcap(
        tmp_path / "a.mcap", ("/text", STRING, "ros2msg", "string data\n", [string(t) for t in "abc"])
    )
    stamp, far = struct.pack("<QQ", at(0.1), at(0.1)), struct.pack("<QQ", 1 << 63, 1 << 63)
    path.write_bytes(path.read_bytes().replace(stamp, far))
    read, problems = read_texts(path)
    assert read == ["a", "c"] and "'/text'" in problems[-1] and "left out" in problems[-1]


def test_a_clock_that_was_set_back_is_told(tmp_path):
    behind = [(topic, message, stamp_ns - at(3600) + at(0)) for topic, message, stamp_ns in texts(3)]
    read, problems = read_texts(write_bag(tmp_path / "bag", [*texts(20), *behind]))
    assert read == expected_texts(20)
    assert len(problems) == 1 and "the clock was set back" in problems[0] and "(3 times)" in problems[0]


def test_metadata_in_another_encoding_are_read(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(3))
    metadata = bag / "metadata.yaml"
    metadata.write_bytes(metadata.read_bytes() + "# recorded at 20 °C\n".encode("latin-1"))
    assert read_texts(bag) == (expected_texts(3), ())


def test_padding_behind_a_message_is_overlooked_and_a_short_one_refused(tmp_path):
    bag = write_bag(tmp_path / "bag", mixed_messages()[2:])
    reader = BagReader(bag)
    (message,) = reader.messages()
    assert reader.decode(message._replace(data=bytes(message.data) + bytes(4))).name == ["a", "b"]
    with pytest.raises(ValueError, match="is not a valid sensor_msgs/msg/JointState"):
        reader.decode(message._replace(data=message.data[:-20]))


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_topic_that_changes_its_type_is_used_up_to_there_and_reported(tmp_path, storage):
    other = joint_state(at(1), ["a"], [1.0])
    messages = [*texts(5), ("/text", other, at(1)), ("/text", other, at(2)), ("/other", string("still"), at(3))]
    read, problems = read_texts(write_bag(tmp_path / "bag", messages, storage))
    assert read == [*expected_texts(5), "still"]
    assert len(problems) == 1 and f"from {STRING} to {JOINT_STATE}" in problems[0] and "(2 times)" in problems[0]


def test_a_type_that_changes_its_definition_is_used_up_to_there_and_one_only_worded_otherwise_is_the_same(tmp_path):
    bag = tmp_path / "bag"
    bag.mkdir()
    definitions = ["string data\n", "# a comment\nstring   data\n", "string data\nuint8 more\n"]
    for i, definition in enumerate(definitions):
        types = get_typestore(Stores.EMPTY)
        types.register(get_types_from_msg(definition, STRING))
        part = tmp_path / str(i)
        with_fields = types.types[STRING](f"text {i}", *([7] if "more" in definition else []))
        write_bag(part, [("/text", with_fields, at(i))], typestore=types)
        data = storage_file(part).read_bytes()
        (bag / f"bag_{i}.mcap").write_bytes(data)
    read, problems = read_texts(bag)
    assert read == ["text 0", "text 1"]
    assert len(problems) == 2 and "'/text' changes its definition" in problems[1]


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_messages_written_a_little_out_of_order_are_sorted(tmp_path, storage):
    places = [0, 3, 1, 2, 7, 5, 6, 4, 8, 9]
    messages = [("/text", string(f"text {i}"), at(i * 0.1)) for i in places]
    assert read_texts(write_bag(tmp_path / "bag", messages, storage)) == (expected_texts(10), ())


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_clock_that_jumps_back_ends_what_is_used_and_is_reported(tmp_path, storage):
    messages = texts(30) + [("/text", string("again"), at(-3600 + i)) for i in range(5)]
    read, problems = read_texts(write_bag(tmp_path / "bag", messages, storage))
    assert read == expected_texts(30)
    assert len(problems) == 1 and "(5 times)" in problems[0] and "'/text'" in problems[0]


def test_one_stamp_far_ahead_holds_nothing_up(tmp_path):
    messages = texts(30)
    messages.insert(10, ("/text", string("ahead"), at(3600)))
    assert read_texts(write_bag(tmp_path / "bag", messages)) == ([*expected_texts(30), "ahead"], ())


def test_no_more_is_held_back_for_sorting_than_fits_into_a_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_HELD_BYTES", 40_000)
    bag = write_bag(tmp_path / "bag", [("/camera", image(at(i / 1000), PIXELS), at(i / 1000)) for i in range(50)])
    read, problems = read_stamps(bag)
    assert read == [at(i / 1000) for i in range(50)] and not problems


def test_messages_that_are_no_cdr_are_refused_by_name(tmp_path):
    bag = write_bag(tmp_path / "bag", texts(3), SQLITE)
    connection = sqlite3.connect(storage_file(bag))
    connection.execute("UPDATE topics SET serialization_format = 'xml'")
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="serialized as 'xml'; expected cdr"):
        list(read_bag(bag))


def test_every_bag_of_a_folder_is_found_that_can_be_read_and_the_rest_is_named(tmp_path):
    for name in ("a", "killed", "day2/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_bag(tmp_path / name, texts(3))
    (tmp_path / "killed" / "metadata.yaml").unlink()
    shutil.copy(storage_file(tmp_path / "a"), tmp_path / "episode_7.mcap")
    (tmp_path / "day2" / "alone").mkdir()
    shutil.copy(storage_file(tmp_path / "a"), tmp_path / "day2" / "alone" / "other.mcap")
    (tmp_path / "notes.txt").write_text("the good ones")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".demo.17" / "demo").mkdir(parents=True)
    found = find_bags(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in found.bags]
    assert names == ["a", "day2/alone/other.mcap", "day2/c", "episode_7.mcap", "killed"]
    assert found.others == (".demo.17", "empty", "notes.txt")
    assert all(read_texts(path)[0] == expected_texts(3) for path in found.bags)


def test_a_folder_that_is_a_bag_itself_is_the_only_one(tmp_path):
    assert find_bags(write_bag(tmp_path / "bag", texts(3))).bags == (tmp_path / "bag",)
    with pytest.raises(ValueError, match="nowhere does not exist; expected a rosbag2 bag, an .mcap or .db3 file"):
        find_bags(tmp_path / "nowhere")


def test_several_bags_and_folders_are_found_once_each(tmp_path):
    bag = write_bag(tmp_path / "days" / "monday", texts(3))
    (tmp_path / "days" / "notes.txt").touch()
    found = find_bags(storage_file(bag), tmp_path / "days", bag)
    assert found.bags == (storage_file(bag), bag) and found.others == ("days/notes.txt",)
    with pytest.raises(ValueError, match="notes.txt is no bag"):
        find_bags(bag, tmp_path / "days" / "notes.txt")
