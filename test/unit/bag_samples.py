"""Small bags as rosbag2 writes them, and as they are found after a crash."""

import sqlite3
import struct
from pathlib import Path

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import CompressionFormat, StoragePlugin, Writer

from vla_ros.bags.definitions import TYPES, message_type, serialize
from vla_ros.bags.read import BagReader

NS_PER_S = 1_000_000_000
START_NS = 1_700_000_000 * NS_PER_S
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
STRING, NUMBERS = "std_msgs/msg/String", "std_msgs/msg/Float64MultiArray"
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def at(seconds):
    """That long after the start of a bag, in ns."""
    return START_NS + round(seconds * NS_PER_S)


def header(stamp_ns):
    stamp = message_type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    return message_type("std_msgs/msg/Header")(stamp, "base")


def string(text):
    return message_type(STRING)(text)


def image(stamp_ns, pixels, encoding="rgb8"):
    height, width = pixels.shape[:2]
    return message_type(IMAGE)(header(stamp_ns), height, width, encoding, 0, pixels[0].nbytes, pixels.reshape(-1))


def jpeg(stamp_ns, pixels):
    _, data = cv2.imencode(".jpg", pixels[..., ::-1])
    return message_type(COMPRESSED_IMAGE)(header(stamp_ns), "jpeg", data)


def joint_state(stamp_ns, names, positions, velocities=()):
    positions, velocities = np.array(positions, np.float64), np.array(velocities, np.float64)
    return message_type(JOINT_STATE)(header(stamp_ns), list(names), positions, velocities, np.zeros(0))


def trajectory(stamp_ns, names, rows, dt_s=0.1):
    point, duration = (
        message_type(name) for name in ("trajectory_msgs/msg/JointTrajectoryPoint", "builtin_interfaces/msg/Duration")
    )
    none = np.zeros(0)
    dues = [duration(*divmod(round((i + 1) * dt_s * NS_PER_S), NS_PER_S)) for i in range(len(rows))]
    points = [point(np.array(row, np.float64), none, none, none, due) for row, due in zip(rows, dues, strict=True)]
    return message_type(TRAJECTORY)(header(stamp_ns), list(names), points)


def array(msgtype, data):
    layout = message_type("std_msgs/msg/MultiArrayLayout")([], 0)
    return message_type(msgtype)(layout, data)


def write_bag(path, messages, storage=MCAP, compression=None, typestore=TYPES):
    """``messages`` are (topic, message, recorded at ns), in the order they are written; returns ``path``."""
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, message, stamp_ns in messages:
            msgtype = message.__msgtype__
            if (topic, msgtype) not in connections:
                connections[topic, msgtype] = writer.add_connection(topic, msgtype, typestore=typestore)
            writer.write(connections[topic, msgtype], stamp_ns, typestore.serialize_cdr(message, msgtype))
    return path


def texts(num, topic="/text", period_s=0.1):
    """A message each ``period_s``, saying which it is."""
    return [(topic, string(f"text {i}"), at(i * period_s)) for i in range(num)]


def write_plain_mcap(path, *channels):
    """An MCAP file without chunks and index, as any program may write it; ``channels`` are (topic, name of the schema,
    its encoding and its bytes, messages), a message each 0.1 s. Returns ``path``."""
    data = b"\x89MCAP0\r\n" + _record(1, _text(""), _text("another writer"))
    for number, (topic, msgtype, encoding, definition, _) in enumerate(channels, 1):
        data += _record(3, struct.pack("<H", number), _text(msgtype), _text(encoding), _text(definition))
        data += _record(4, struct.pack("<HH", number, number), _text(topic), _text("cdr"), _text(""))
    for number, (*_, messages) in enumerate(channels, 1):
        for i, message in enumerate(messages):
            content = message if isinstance(message, bytes) else bytes(serialize(message))
            data += _record(5, struct.pack("<HIQQ", number, i, at(i * 0.1), at(i * 0.1)), content)
    path.write_bytes(data + _record(15, bytes(4)))
    return path


def _record(op, *parts):
    return struct.pack("<BQ", op, sum(map(len, parts))) + b"".join(parts)


def _text(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<I", len(data)) + data


def storage_file(bag):
    (path,) = (file for file in Path(bag).iterdir() if file.suffix in (".mcap", ".db3", ".zstd"))
    return path


def as_humble(bag, version=5):
    """Make a bag what Humble would have written: no distribution's name, and in sqlite3 no message definitions."""
    path = Path(bag) / "metadata.yaml"
    document = yaml.safe_load(path.read_text())
    information = document["rosbag2_bagfile_information"]
    information["version"] = version
    for key in ("ros_distro", "custom_data"):
        del information[key]
    for topic in information["topics_with_message_count"]:
        del topic["topic_metadata"]["type_description_hash"]
        topic["topic_metadata"]["offered_qos_profiles"] = ""
    path.write_text(yaml.safe_dump(document))
    if storage_file(bag).suffix == ".db3":
        connection = sqlite3.connect(storage_file(bag))
        for table in ("schema", "metadata", "message_definitions"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
        connection.commit()
        connection.close()
    return bag


def read_texts(bag, topics=()):
    """What can be read of a bag of texts, and its problems."""
    reader = BagReader(bag)
    return [reader.decode(message).data for message in reader.messages(topics)], reader.problems


def expected_texts(num):
    """What ``texts`` says."""
    return [f"text {i}" for i in range(num)]


def many_images(num=60):
    """Several chunks, however they are cut: 60 messages of 7 kB and one of 1 MB for each ten."""
    rng = np.random.default_rng(1)
    sizes = [(600, 600, 3) if i % 10 == 9 else (40, 60, 3) for i in range(num)]
    pictures = [rng.integers(0, 256, size, np.uint8) for size in sizes]
    return [("/camera", image(at(i * 0.1), picture), at(i * 0.1)) for i, picture in enumerate(pictures)]


def read_stamps(bag):
    """When what can be read was recorded, and the bag's problems."""
    reader = BagReader(bag)
    return [message.stamp_ns for message in reader.messages()], reader.problems
