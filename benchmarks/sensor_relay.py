"""Between the simulated robot's sensors and the policy node: hands messages on, unless told to spoil them."""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import rclpy
import yaml
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from vla_ros.messages.images import decode_image, encode_image
from vla_ros.messages.times import time_to_ns
from vla_ros.robot import RobotConfig
from vla_ros.ros.managed import Spinner
from vla_ros.ros.qos import CAMERA, JOINT_STATES

PREFIX = "relayed/"
JOINTS = "joints"
STAMP = struct.Struct("<iI")
STAMP_OFFSET = 4
"""A serialized message begins with four bytes of its own, then comes the header's stamp."""
LONG_AGO_S = 3600
PUSH, JUMP = 2.5, 0.5
"""How far a hand moves a joint, in its max_tracking_error, and how far joint states jump, rad."""
HUGE = 100_000
AGE_SLACK = 3.0
"""A message takes another way through a busy process: so many times as old it may become."""

Spoiler = Callable[[bytes], bytes | None]


def joints_topic(robot: RobotConfig) -> str:
    """Where the driver publishes."""
    return robot.joint_sources[0].topic


def relayed_robot_file(path: Path, folder: Path) -> Path:
    """Robot file ``path`` with its sensors behind the relay, written into ``folder``."""
    document = yaml.safe_load(path.read_text())
    for sensor in (*document["cameras"], document["joint_states"]):
        sensor["topic"] = PREFIX + sensor["topic"]
        sensor["max_age_s"] *= AGE_SLACK
    folder.mkdir(parents=True, exist_ok=True)
    relayed = folder / "relayed_robot.yaml"
    relayed.write_text(yaml.safe_dump(document))
    return relayed


class SensorRelay:
    """A node with a thread of its own. ``spoil`` maps a camera's name, or ``joints``, to what becomes of its serialized
    messages: others, or None where they are dropped; ``last_joints`` is the last joint state that was handed on."""

    def __init__(self, robot: RobotConfig) -> None:
        self.spoil: dict[str, Spoiler] = {}
        self.last_joints = b""
        self._publishers: dict[str, Publisher] = {}
        node = rclpy.create_node("sensor_relay")
        streams = [(camera.name, Image, camera.topic, CAMERA) for camera in robot.cameras]
        for name, kind, topic, profile in (*streams, (JOINTS, JointState, robot.joint_sources[0].topic, JOINT_STATES)):
            publisher = node.create_publisher(kind, PREFIX + topic, profile)
            self._publishers[name] = publisher
            node.create_subscription(kind, topic, partial(self._relay, name, publisher.publish), profile, raw=True)
        self._spinner = Spinner(node)
        self._spinner.start()

    def stop(self) -> None:
        self._spinner.stop()

    def _relay(self, name: str, publish: Callable[[bytes], None], data: bytes) -> None:
        spoil = self.spoil.get(name)
        relayed = data if spoil is None else spoil(data)
        if relayed is None:
            return
        if name == JOINTS:
            self.last_joints = relayed
        publish(relayed)

    def say(self, msg: JointState) -> None:
        """A joint state of the relay's own."""
        self._publishers[JOINTS].publish(msg)


def dropped(data: bytes) -> None:
    """The sensor is silent."""
    return None


class Frozen:
    """The first pixels again and again, with new stamps."""

    def __init__(self) -> None:
        self._first = b""

    def __call__(self, data: bytes) -> bytes:
        self._first = self._first or data
        end = STAMP_OFFSET + STAMP.size
        return data[:end] + self._first[end:]


class Pushed:
    """Somebody moves the first joint to the far side at ``speed``, rad/s, and holds the arm there whatever it is told;
    nothing is heard in the first ``silent_s``."""

    def __init__(self, robot: RobotConfig, speed: float, silent_s: float = 0.0) -> None:
        self._joint, self._speed, self._silent_s = robot.joints[0], speed, silent_s
        self._push = PUSH * float(robot.max_tracking_errors[0])
        self._began: tuple[float, list[float]] | None = None

    def __call__(self, data: bytes) -> bytes | None:
        msg, now_s = deserialize_message(data, JointState), time.monotonic()
        column = list(msg.name).index(self._joint.name)
        began_s, positions = self._began = self._began or (now_s, list(msg.position))
        if now_s - began_s < self._silent_s:
            return None
        side = -1 if positions[column] > (self._joint.lower + self._joint.upper) / 2 else 1
        way = min(self._speed * (now_s - began_s - self._silent_s), self._push)
        moved = [*positions]
        moved[column] += side * way
        msg.position = array("d", moved)
        velocities = [0.0] * len(moved)
        velocities[column] = side * self._speed * (0 < way < self._push)
        msg.velocity = array("d", velocities)
        return serialize_message(msg)


class Jumping:
    """Every other joint state is of an arm elsewhere."""

    def __init__(self) -> None:
        self._num = 0

    def __call__(self, data: bytes) -> bytes:
        self._num += 1
        if self._num % 2:
            return data
        msg = deserialize_message(data, JointState)
        msg.position = array("d", [msg.position[0] + JUMP, *msg.position[1:]])
        return serialize_message(msg)


def of_a_huge_size(data: bytes) -> bytes:
    """An image that says it has 10^10 pixels."""
    msg = deserialize_message(data, Image)
    msg.width, msg.height, msg.step = HUGE, HUGE, 3 * HUGE
    return serialize_message(msg)


def of_long_ago(data: bytes) -> bytes:
    """The same with a stamp that cannot be of this moment."""
    sec, nanosec = STAMP.unpack_from(data, STAMP_OFFSET)
    return data[:STAMP_OFFSET] + STAMP.pack(sec - LONG_AGO_S, nanosec) + data[STAMP_OFFSET + STAMP.size :]


def half_as_large(data: bytes) -> bytes:
    """An image of another size."""
    whole, half = deserialize_message(data, Image), Image()
    encode_image(decode_image(whole)[::2, ::2].copy(), half, time_to_ns(whole.header.stamp), whole.header.frame_id)
    return serialize_message(half)


def of_an_unknown_encoding(data: bytes) -> bytes:
    """An image that nobody can read."""
    msg = deserialize_message(data, Image)
    msg.encoding = "holographic"
    return serialize_message(msg)


def without_the_last_joint(data: bytes) -> bytes:
    """A joint state that lacks a joint."""
    msg = deserialize_message(data, JointState)
    msg.name, msg.position, msg.velocity = msg.name[:-1], msg.position[:-1], msg.velocity[:-1]
    return serialize_message(msg)


def not_finite(data: bytes) -> bytes:
    """A joint state with a position that is no number."""
    msg = deserialize_message(data, JointState)
    msg.position = array("d", [float("nan"), *msg.position[1:]])
    return serialize_message(msg)
