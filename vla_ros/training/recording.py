"""One bag's messages as training reads them, under the names and types that ``vla_ros record`` gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.bags.read import BagReader, RawMessage
from vla_ros.bags.tally import Tally
from vla_ros.messages.frames import decode_frame
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.stamps import check_stamp
from vla_ros.messages.times import time_to_ns
from vla_ros.messages.trajectories import parse_trajectory
from vla_ros.robot import CameraConfig, OutputConfig, RobotConfig

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
STRING, NUMBERS = "std_msgs/msg/String", "std_msgs/msg/Float64MultiArray"
MODES = ("HOLD", "TELEOP", "POLICY", "ESTOP")
MARKERS = ("start", "success", "failure", "discard")


@dataclass(frozen=True)
class Picture:
    """A camera's image; ``decode`` makes it uint8 RGB ``[height, width, 3]``, or raises ValueError."""

    received_ns: int
    camera: str
    stamp_ns: int
    decode: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Joints:
    """Measured ``positions`` ``[num_joints]`` in the robot file's order."""

    received_ns: int
    stamp_ns: int
    positions: np.ndarray


@dataclass(frozen=True)
class Commanded:
    """Where the joints of the output ``group`` are to be at ``due_ns``."""

    received_ns: int
    group: str
    due_ns: int
    positions: np.ndarray


@dataclass(frozen=True)
class Task:
    """The instruction from now on; empty: none."""

    received_ns: int
    text: str


@dataclass(frozen=True)
class Driver:
    """Who drives from now on: one of ``MODES``."""

    received_ns: int
    mode: str


@dataclass(frozen=True)
class Marker:
    """An episode begins or ends: one of ``MARKERS``."""

    received_ns: int
    text: str


@dataclass(frozen=True)
class Scene:
    """Where the demo's blocks are, by colour, in m."""

    received_ns: int
    blocks: dict[str, tuple[float, float]]


Event = Picture | Joints | Commanded | Task | Driver | Marker | Scene


@dataclass(frozen=True)
class _Source:
    msgtype: str
    read: Callable[[Any, int], Event]
    is_needed: bool = False


class Recording:
    """The events of ``robot`` in one bag, recorded in ``namespace``; iterate over it once.

    ``problems`` are those of the bag, and one line for each kind of message that could not be used.
    """

    def __init__(self, path: Path, robot: RobotConfig, namespace: str, needs_markers: bool) -> None:
        """Raises ValueError where there is no bag."""
        self._path = path
        self._bag = BagReader(path)
        self._robot = robot
        self._sources = self._make_sources(namespace, needs_markers)
        self._tally = Tally()

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each problem met so far, naming the bag."""
        return (*self._bag.problems, *self._tally.lines)

    def report(self, kind: str, line: str) -> None:
        """Add to ``problems``; of each ``kind`` the first line stays, the others are counted."""
        self._tally.add(kind, f"bag {self._path}: {line}")

    def __iter__(self) -> Iterator[Event]:
        """In the order of recording. Raises ValueError where nothing of the bag can be read."""
        is_usable: dict[str, bool] = {}
        for message in self._bag.messages(tuple(self._sources)):
            topic = message.topic
            if topic not in is_usable:
                is_usable[topic] = self._is_usable(message)
            if not is_usable[topic]:
                continue
            try:
                event = self._sources[topic].read(self._bag.decode(message), message.stamp_ns)
            except ValueError as error:
                self.report(topic, f"message on '{topic}': {error}; it is left out")
            else:
                yield event
        self._report_missing(set(is_usable))

    def _is_usable(self, message: RawMessage) -> bool:
        """Whether a topic's messages are of the type the live nodes take."""
        topic, expected = message.topic, self._sources[message.topic].msgtype
        problem = ""
        if message.msgtype != expected:
            problem = f"'{topic}' holds {message.msgtype}; expected {expected}: check the robot file"
        else:
            try:
                if not self._bag.layout(topic).is_standard:
                    problem = f"'{topic}': the bag defines {expected} otherwise than ROS does"
            except ValueError as error:
                problem = f"'{topic}': {error}"
        if problem:
            self.report(topic, problem)
        return not problem

    def _report_missing(self, seen: set[str]) -> None:
        # Of a bag that breaks off, its own list says what came behind the damage.
        listed = () if self._bag.contents is None else self._bag.contents.topics
        present = seen | {topic.name for topic in listed if topic.num_messages}
        for name, source in self._sources.items():
            if source.is_needed and name not in present:
                alike = [topic.name for topic in listed if topic.msgtype == source.msgtype]
                hint = f", which has {', '.join(alike)}" if alike else ""
                self.report(name, f"'{name}' is not in the bag{hint}: check the robot file and namespace")

    def _make_sources(self, namespace: str, needs_markers: bool) -> dict[str, _Source]:
        robot = self._robot
        by_name = {
            robot.joint_states.topic: _Source(JOINT_STATE, partial(_joints, robot.joint_names), is_needed=True),
            "vla_policy/task": _Source(STRING, lambda msg, at_ns: Task(at_ns, msg.data.strip()), is_needed=True),
            "vla_policy/mode": _Source(STRING, lambda msg, at_ns: Driver(at_ns, _one_of(msg.data, MODES))),
            "vla_policy/episode": _Source(
                STRING, lambda msg, at_ns: Marker(at_ns, _one_of(msg.data.strip(), MARKERS)), needs_markers
            ),
            "sim/blocks": _Source(STRING, lambda msg, at_ns: Scene(at_ns, _parse_blocks(msg.data))),
        }
        for camera in robot.cameras:
            kind = COMPRESSED_IMAGE if camera.compressed else IMAGE
            by_name[camera.topic] = _Source(kind, partial(_picture, camera), is_needed=True)
        for topic in {output.command_topic for output in robot.outputs}:
            groups = [output for output in robot.outputs if output.command_topic == topic]
            if groups[0].interface == "trajectory":
                by_name[topic] = _Source(TRAJECTORY, partial(_trajectory, groups), is_needed=True)
            else:
                read = partial(_numbers, groups[0], round(1e9 / robot.control_rate_hz))
                by_name[topic] = _Source(NUMBERS, read, is_needed=True)
        return {resolve_topic(name, namespace): source for name, source in by_name.items()}


def resolve_topic(name: str, namespace: str) -> str:
    """The full name of a topic that a node in ``namespace`` calls ``name``."""
    if name.startswith("/"):
        return name
    return "/" + "/".join(part for part in (*namespace.split("/"), name) if part)


def _picture(camera: CameraConfig, msg: Any, received_ns: int) -> Picture:
    stamp_ns = time_to_ns(msg.header.stamp)
    check_stamp(stamp_ns, received_ns)
    return Picture(received_ns, camera.name, stamp_ns, partial(decode_frame, msg, camera.width, camera.height))


def _joints(joint_names: Sequence[str], msg: Any, received_ns: int) -> Joints:
    stamp_ns = time_to_ns(msg.header.stamp)
    check_stamp(stamp_ns, received_ns)
    return Joints(received_ns, stamp_ns, positions_by_name(msg, joint_names)[0])


def _trajectory(groups: Sequence[OutputConfig], msg: Any, received_ns: int) -> Commanded:
    """Several groups may share a controller's topic: the joints in the message tell which one is meant."""
    group = next((output for output in groups if set(output.joints) == set(msg.joint_names)), groups[0])
    trajectory = parse_trajectory(msg, group.joints)
    return Commanded(received_ns, group.name, received_ns + round(trajectory.times_s[0] * 1e9), trajectory.positions[0])


def _numbers(group: OutputConfig, period_ns: int, msg: Any, received_ns: int) -> Commanded:
    """One control period ahead is what the publisher means by it."""
    positions = np.array(msg.data, np.float64)
    if positions.shape != (len(group.joints),) or not np.isfinite(positions).all():
        raise ValueError(
            f"command of {positions.size} numbers; expected {len(group.joints)} finite ones, one for each joint of "
            f"output '{group.name}'"
        )
    return Commanded(received_ns, group.name, received_ns + period_ns, positions)


def _one_of(text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise ValueError(f"'{text[:40]}'; expected one of {', '.join(known)}")
    return text


def _parse_blocks(text: str) -> dict[str, tuple[float, float]]:
    try:
        return {str(color): (float(x), float(y)) for color, (x, y) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"'{text[:40]}' is no JSON object of colours and their [x, y] in m") from error
