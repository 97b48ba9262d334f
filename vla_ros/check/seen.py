"""What is seen of a live graph, kept message by message: the input of every judgement. No ROS."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vla_ros.hands import Hand
from vla_ros.messages.compressed import find_problem, refuse_format
from vla_ros.messages.images import COLOUR_ENCODINGS, decode_pixels
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.strict import quoted
from vla_ros.units import NS_PER_S


@dataclass(frozen=True)
class Endpoint:
    """One publisher or subscription; ``node`` is its full name, ``type`` as in ``sensor_msgs/msg/Image``."""

    node: str
    type: str
    reliable: bool = True
    transient_local: bool = False

    @property
    def qos(self) -> str:
        return ("reliable" if self.reliable else "best effort") + (", transient local" if self.transient_local else "")


def names(endpoints: Sequence[Endpoint]) -> str:
    """Their nodes, for people to read."""
    return ", ".join(dict.fromkeys(endpoint.node for endpoint in endpoints))


@dataclass(frozen=True)
class TopicSeen:
    """A topic by its full name and who is at its ends, this program left out."""

    name: str
    publishers: tuple[Endpoint, ...] = ()
    subscriptions: tuple[Endpoint, ...] = ()


@dataclass
class Stream:
    """Messages of one topic: when each arrived and its header stamp, ns of ROS time.

    ``until_ns`` is when watching ended; 0 for the last arrival.
    """

    received_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    until_ns: int = 0

    def __len__(self) -> int:
        return len(self.received_ns)

    @classmethod
    def merged(cls, streams: Sequence[Stream], until_ns: int) -> Stream:
        """All their messages, in the order of arrival."""
        received_ns, stamps_ns = (
            np.concatenate([getattr(stream, kept) for stream in streams]).astype(np.int64)
            for kept in ("received_ns", "stamps_ns")
        )
        order = np.argsort(received_ns, kind="stable")
        return cls(received_ns[order].tolist(), stamps_ns[order].tolist(), until_ns)

    def add(self, msg: Any, now_ns: int) -> None:
        """A message with a header that arrived at ``now_ns``."""
        self.received_ns.append(now_ns)
        self.stamps_ns.append(time_to_ns(msg.header.stamp))

    @property
    def gaps_s(self) -> np.ndarray:
        """Between one arrival and the next, ``[num_messages - 1]``."""
        return np.diff(self.received_ns) / NS_PER_S

    @property
    def silence_s(self) -> float:
        """From the last arrival to the end of watching."""
        return max(self.until_ns - self.received_ns[-1], 0) / NS_PER_S

    @property
    def ages_s(self) -> np.ndarray:
        """How long before its arrival each message was stamped, ``[num_messages]``."""
        return np.subtract(self.received_ns, self.stamps_ns) / NS_PER_S

    @property
    def oldest_s(self) -> np.ndarray:
        """How old each message was when the next came, ``[num_messages - 1]``."""
        return np.subtract(self.received_ns[1:], self.stamps_ns[:-1]) / NS_PER_S

    @property
    def rate_hz(self) -> float:
        """Messages per second; 0 for fewer than two."""
        span_s = self.gaps_s.sum()
        return len(self.gaps_s) / span_s if span_s > 0 else 0.0


@dataclass(frozen=True)
class Picture:
    """What an image says of itself, and why it cannot be one where its bytes contradict it."""

    width: int
    height: int
    encoding: str
    problem: str = ""

    @classmethod
    def of(cls, msg: Any) -> Picture:
        """Of an Image or a CompressedImage, its size from the file's header; nothing is decoded."""
        if hasattr(msg, "format"):
            return cls._of_compressed(msg)
        try:
            if msg.encoding in COLOUR_ENCODINGS:
                decode_pixels(msg)  # a view: no pixel is read
        except ValueError as error:
            return cls(msg.width, msg.height, msg.encoding, str(error))
        return cls(msg.width, msg.height, msg.encoding)

    @classmethod
    def _of_compressed(cls, msg: Any) -> Picture:
        try:
            with Image.open(io.BytesIO(msg.data)) as image:
                problem = "" if refuse_format(msg.format) else find_problem(msg)  # its format is judged for itself
                return cls(*image.size, msg.format, problem)
        except Exception as error:  # damaged bytes make the library raise many things
            got = f"{len(msg.data)} bytes of format '{quoted(msg.format)}'"
            return cls(0, 0, msg.format, f"{got} are not a picture ({type(error).__name__})")


@dataclass
class CameraSeen:
    """One camera; ``pictures`` counts the images of each kind."""

    topic: TopicSeen
    stream: Stream = field(default_factory=Stream)
    pictures: Counter[Picture] = field(default_factory=Counter)

    def add(self, msg: Any, now_ns: int) -> None:
        self.stream.add(msg, now_ns)
        self.pictures[Picture.of(msg)] += 1


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value that came."""

    lowest: float
    highest: float


@dataclass
class JointStatesSeen:
    """``streams`` has the messages that name some of ``joint_names``, as messages call them, by which of them; those of
    none of them (wheels, another arm) cost nothing. ``came`` are all names that came, ``refused`` counts messages that
    can't be read, by the reason, ``contested`` are joints of ours that two publishers send."""

    topic: TopicSeen
    joint_names: tuple[str, ...]
    streams: dict[tuple[str, ...], Stream] = field(default_factory=dict)
    came: dict[str, None] = field(default_factory=dict)
    positions: dict[str, Range] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    contested: dict[str, None] = field(default_factory=dict)
    until_ns: int = 0

    def together(self) -> dict[tuple[str, ...], Stream]:
        """The joints that come together and the messages that name them, each joint once: where some messages have all
        joints and some have part of them, those that always come together. Those that never come are in none."""
        groups: dict[tuple[tuple[str, ...], ...], list[str]] = {}
        for name in self.joint_names:
            groups.setdefault(tuple(key for key in self.streams if name in key), []).append(name)
        groups.pop((), None)
        return {
            tuple(own): Stream.merged([self.streams[key] for key in keys], self.until_ns)
            for keys, own in groups.items()
        }

    def add(self, msg: Any, now_ns: int) -> None:
        self.came.update(dict.fromkeys(msg.name))
        present = tuple(name for name in self.joint_names if name in msg.name)
        if not present:
            return
        self.streams.setdefault(present, Stream()).add(msg, now_ns)
        try:
            positions, _ = positions_by_name(msg, present)
        except ValueError as error:
            self.refused[str(error)] += 1
            return
        for name, position in zip(present, positions.tolist(), strict=True):
            known = self.positions.get(name, Range(position, position))
            self.positions[name] = Range(min(known.lowest, position), max(known.highest, position))


@dataclass
class HandSeen:
    """A device by which a human leads: ``num_led`` of its ``num_messages`` name joints of the robot, ``came`` are those
    that the last one names, ``refused`` counts those that can't be followed, by the reason. Of a leader only."""

    topic: TopicSeen
    num_messages: int = 0
    num_led: int = 0
    came: tuple[str, ...] = ()
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, hand: Hand, joint_names: Sequence[str], msg: Any) -> None:
        self.num_messages += 1
        self.came = tuple(msg.name)
        try:
            self.num_led += hand.parse(msg, joint_names) is not None
        except ValueError as error:
            self.refused[str(error)] += 1


@dataclass(frozen=True)
class ControllerSettings:
    """Parameters of a ros2_control controller; ``switches`` are those it has of its interface's."""

    joints: tuple[str, ...]
    switches: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputSeen:
    """One command topic; ``controllers`` holds the settings, by node, of those subscribers that are controllers. Of a
    gripper that is an action server it is the action: who serves it, as ``subscriptions``, and who publishes its set
    points."""

    topic: TopicSeen
    controllers: Mapping[str, ControllerSettings] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphSeen:
    """Everything seen in ``seconds``; cameras and outputs by their name in the robot file, joint states by its sources,
    ``hands`` by their topic; ``of_the_nodes`` are topics that one of the two nodes alone publishes; ``num_lost`` counts
    images by topic, ``cure_of_losses`` says what helps."""

    seconds: float
    cameras: Mapping[str, CameraSeen]
    joint_states: tuple[JointStatesSeen, ...]
    outputs: Mapping[str, OutputSeen]
    task: TopicSeen
    hands: Mapping[str, HandSeen]
    estop: TopicSeen
    has_cv_bridge: bool = False
    has_control_msgs: bool = True
    of_the_nodes: tuple[TopicSeen, ...] = ()
    num_lost: Mapping[str, int] = field(default_factory=dict)
    cure_of_losses: str = ""
