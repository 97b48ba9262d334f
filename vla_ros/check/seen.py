"""What was seen of a live graph, as plain values: the input of every judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

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


@dataclass(frozen=True)
class TopicSeen:
    """A topic by its full name and who is at its ends, this program left out."""

    name: str
    publishers: tuple[Endpoint, ...] = ()
    subscriptions: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Messages of one topic: when they arrived and their header stamps, ns of ROS time, int64 ``[num_messages]``.

    ``until_ns`` is when watching ended; 0 for the last arrival.
    """

    received_ns: np.ndarray
    stamps_ns: np.ndarray
    until_ns: int = 0

    def __len__(self) -> int:
        return len(self.received_ns)

    @property
    def gaps_s(self) -> np.ndarray:
        """Between one arrival and the next, ``[num_messages - 1]``."""
        return np.diff(self.received_ns) / NS_PER_S

    @property
    def silence_s(self) -> float:
        """From the last arrival to the end of watching."""
        return max(self.until_ns - int(self.received_ns[-1]), 0) / NS_PER_S

    @property
    def ages_s(self) -> np.ndarray:
        """How long before its arrival each message was stamped, ``[num_messages]``."""
        return (self.received_ns - self.stamps_ns) / NS_PER_S

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


@dataclass(frozen=True)
class CameraSeen:
    """One camera; ``pictures`` counts the images of each kind."""

    topic: TopicSeen
    stream: Stream
    pictures: Mapping[Picture, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value that came."""

    lowest: float
    highest: float


@dataclass(frozen=True)
class JointStatesSeen:
    """``num_named`` counts the messages that name a joint, ``refused`` those that can't be read, by the reason."""

    topic: TopicSeen
    stream: Stream
    num_named: Mapping[str, int] = field(default_factory=dict)
    positions: Mapping[str, Range] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ControllerSettings:
    """Parameters of a ros2_control controller; ``switches`` are those it has of its interface's."""

    joints: tuple[str, ...]
    switches: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputSeen:
    """One command topic; ``controllers`` holds the settings, by node, of those subscribers that are controllers."""

    topic: TopicSeen
    controllers: Mapping[str, ControllerSettings] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphSeen:
    """Everything seen in ``seconds``; cameras and outputs by their name in the robot file."""

    seconds: float
    cameras: Mapping[str, CameraSeen]
    joint_states: JointStatesSeen
    outputs: Mapping[str, OutputSeen]
    task: TopicSeen
    teleop: TopicSeen
    estop: TopicSeen
    has_cv_bridge: bool = False
