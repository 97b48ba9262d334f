"""What a bag says, message by message. Stamps are ROS time, which takes the steady clock's place in a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vla_ros.messages.trace import Trace
from vla_ros.messages.trajectories import Trajectory
from vla_ros.types import Frame, JointSample, Mode

MARKERS = ("start", "success", "failure", "discard")


@dataclass(frozen=True)
class Task:
    """The instruction from now on."""

    text: str


@dataclass(frozen=True)
class Teleop:
    """What a human wants of the joints, in the robot file's order, as it came on ``topic``; NaN for a joint that isn't
    named. ``partners`` are the topics of the leaders that are one device with it."""

    trajectory: Trajectory
    topic: str
    partners: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A chunk the policy gave, in the robot file's order; action ``k`` is due ``times_s[k]`` after ``stamp_ns``, the
    time of the observation it answers."""

    trajectory: Trajectory


@dataclass(frozen=True)
class Command:
    """A command to the output ``group`` of the robot file, in the order of its joints, which are to be at its first
    point at ``due_ns``.

    One on a ``forward`` interface is a single point one control period ahead, which is what its publisher means by it.
    """

    group: str
    due_ns: int
    trajectory: Trajectory


@dataclass(frozen=True)
class Marker:
    """An episode begins or ends: one of ``MARKERS``."""

    text: str


@dataclass(frozen=True)
class Generation:
    """What a policy that says words is to learn to answer, from now on; without an answer, nothing."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Scene:
    """Where the things of the scene are, x and y in m by name."""

    places: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class BagEvent:
    """A message recorded at ``received_ns``, and what it said.

    A frame's pixels may be decoded only when they are looked at; joints are in the robot file's order; a mode, who
    drives from now on, is published with every command, too; a trace is what went into a chunk.
    """

    received_ns: int
    said: Frame | JointSample | Mode | Trace | Task | Teleop | Chunk | Command | Marker | Generation | Scene
