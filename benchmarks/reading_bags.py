"""Bags of three 640x480 cameras at 30 Hz to read: ordinary ones, and one as large as wanted that takes up no disk."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from vla_ros.bags.definitions import TYPES, message_type
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig

WIDTH, HEIGHT, NUM_CAMERAS, CAMERA_RATE_HZ, JOINT_RATE_HZ = 640, 480, 3, 30, 200
NUM_PICTURES = 8
NUM_JOINTS = 6
START_NS = 1_700_000_000_000_000_000
NS_PER_S = 1_000_000_000
JPEG_QUALITY = 90
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, STRING = "sensor_msgs/msg/JointState", "std_msgs/msg/String"


def make_robot(is_jpeg: bool) -> RobotConfig:
    """What is recorded in them; its cameras may show the same picture for ever."""
    names = tuple(f"joint_{i}" for i in range(NUM_JOINTS))
    return RobotConfig(
        name="reading",
        control_rate_hz=50.0,
        joints=tuple(JointConfig(name, -3.0, 3.0, 1.0, 5.0) for name in names),
        cameras=tuple(
            CameraConfig(f"camera_{i}", f"camera_{i}/image", WIDTH, HEIGHT, 0.5, is_jpeg, 0.0)
            for i in range(NUM_CAMERAS)
        ),
        outputs=(OutputConfig("arm", names),),
    )


def make_pictures() -> list[np.ndarray]:
    """Pictures with edges, gradients and the noise of a sensor: JPEGs of them are as large as a real camera's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pictures = []
    for i in range(NUM_PICTURES):
        smooth = np.stack([x * 0.3 + 20, y * 0.4, (x + y) * 0.2], -1) + 40 * np.sin((x + 10 * i) / 9)[..., None]
        pictures.append(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))
    return pictures


def image_message(picture: np.ndarray, is_jpeg: bool, stamp_ns: int) -> bytes:
    make = message_type
    stamp = make("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    header = make("std_msgs/msg/Header")(stamp, "camera")
    if is_jpeg:
        _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return bytes(TYPES.serialize_cdr(make(COMPRESSED)(header, "jpeg", data), COMPRESSED))
    message = make(IMAGE)(header, HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, picture.reshape(-1))
    return bytes(TYPES.serialize_cdr(message, IMAGE))


def joint_message(stamp_ns: int) -> bytes:
    stamp = message_type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    header = message_type("std_msgs/msg/Header")(stamp, "")
    names = [f"joint_{i}" for i in range(NUM_JOINTS)]
    values = np.zeros(NUM_JOINTS)
    return bytes(TYPES.serialize_cdr(message_type(JOINT_STATE)(header, names, values, values, values), JOINT_STATE))


def write_bag(path: Path, storage: StoragePlugin, is_jpeg: bool, seconds: float) -> None:
    pictures = make_pictures()
    camera_type = COMPRESSED if is_jpeg else IMAGE
    with Writer(path, version=9, storage_plugin=storage) as writer:
        task = writer.add_connection("/vla_policy/task", STRING, typestore=TYPES)
        joints = writer.add_connection("/joint_states", JOINT_STATE, typestore=TYPES)
        cameras = [
            writer.add_connection(f"/camera_{i}/image", camera_type, typestore=TYPES) for i in range(NUM_CAMERAS)
        ]
        writer.write(task, START_NS, TYPES.serialize_cdr(message_type(STRING)("touch the red block"), STRING))
        joint_ns, period_ns = START_NS, NS_PER_S // JOINT_RATE_HZ
        for frame in range(round(seconds * CAMERA_RATE_HZ)):
            stamp_ns = START_NS + (frame + 1) * NS_PER_S // CAMERA_RATE_HZ
            while joint_ns < stamp_ns:
                writer.write(joints, joint_ns, joint_message(joint_ns))
                joint_ns += period_ns
            for i, camera in enumerate(cameras):
                data = image_message(pictures[(frame + i) % NUM_PICTURES], is_jpeg, stamp_ns)
                writer.write(camera, stamp_ns, data)


def write_sparse_bag(path: Path, num_bytes: int) -> Path:
    """An MCAP file without chunks whose pixels, all black, are holes in the file: little of it lies on the disk."""
    types = (STRING, JOINT_STATE, IMAGE)
    definitions = {msgtype: TYPES.generate_msgdef(msgtype, ros_version=2)[0] for msgtype in types}
    topics = {"/vla_policy/task": STRING, "/joint_states": JOINT_STATE}
    topics |= {f"/camera_{i}/image": IMAGE for i in range(NUM_CAMERAS)}
    head = image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), False, 0)[: -HEIGHT * WIDTH * 3]
    with path.open("wb") as file:
        file.write(b"\x89MCAP0\r\n" + _record(1, _text("ros2") + _text("bench")))
        for number, (msgtype, definition) in enumerate(definitions.items(), 1):
            file.write(_record(3, struct.pack("<H", number) + _text(msgtype) + _text("ros2msg") + _text(definition)))
        for number, (topic, msgtype) in enumerate(topics.items(), 1):
            schema = types.index(msgtype) + 1
            no_metadata = bytes(4)
            file.write(_record(4, struct.pack("<HH", number, schema) + _text(topic) + _text("cdr") + no_metadata))
        task = TYPES.serialize_cdr(message_type(STRING)("touch the red block"), STRING)
        file.write(_message(1, START_NS, bytes(task)))
        stamp_ns = START_NS
        while file.tell() < num_bytes:
            file.write(_message(2, stamp_ns, joint_message(stamp_ns)))
            for camera in range(NUM_CAMERAS):
                # The stamp stands behind the four bytes of the encapsulation.
                stamped = head[:4] + struct.pack("<iI", *divmod(stamp_ns, NS_PER_S)) + head[12:]
                file.write(_message(3 + camera, stamp_ns, stamped, num_zeros=HEIGHT * WIDTH * 3))
                file.seek(HEIGHT * WIDTH * 3, 1)
            stamp_ns += NS_PER_S // CAMERA_RATE_HZ
        file.write(_record(15, bytes(4)) + _record(2, bytes(20)) + b"\x89MCAP0\r\n")
    return path


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _record(op: int, content: bytes) -> bytes:
    return struct.pack("<BQ", op, len(content)) + content


def _message(channel: int, stamp_ns: int, data: bytes, num_zeros: int = 0) -> bytes:
    content = struct.pack("<HIQQ", channel, 0, stamp_ns, stamp_ns) + data
    return struct.pack("<BQ", 5, len(content) + num_zeros) + content
