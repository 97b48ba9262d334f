"""What a bag says, message by message.

``received_ns`` is when a message was recorded, ``stamp_ns`` what its header says; both are ROS time, which takes the
steady clock's place in a replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vla_ros.messages.trace import Trace
from vla_ros.messages.trajectories import Trajectory
from vla_ros.types import Frame, JointSample, Mode
from vla_ros.units import NS_PER_S

MARKERS = ("start", "success", "failure", "discard")


@dataclass(frozen=True)
class FrameEvent:
    """An image of one camera. Its pixels may be decoded only when they are looked at: see ``Frame``."""

    received_ns: int
    frame: Frame

    @property
    def stamp_ns(self) -> int:
        return self.frame.stamp_ns


@dataclass(frozen=True)
class JointsEvent:
    """Measured joints, in the robot file's order."""

    received_ns: int
    sample: JointSample

    @property
    def stamp_ns(self) -> int:
        return self.sample.stamp_ns


@dataclass(frozen=True)
class TaskEvent:
    """The instruction from now on."""

    received_ns: int
    task: str


@dataclass(frozen=True)
class ModeEvent:
    """Who drives from now on; published with every command, too."""

    received_ns: int
    mode: Mode


@dataclass(frozen=True)
class TeleopEvent:
    """What a human wants of the joints, in the robot file's order; NaN for one that isn't named."""

    received_ns: int
    trajectory: Trajectory

    @property
    def stamp_ns(self) -> int:
        """0: from the moment of receipt."""
        return self.trajectory.stamp_ns


@dataclass(frozen=True)
class CommandEvent:
    """A command to the output ``group`` of the robot file, in the order of its joints.

    One on a ``forward`` interface is a single point one control period ahead, which is what its publisher means by it.
    """

    received_ns: int
    group: str
    trajectory: Trajectory

    @property
    def due_ns(self) -> int:
        """When the joints are to be at its first point."""
        return (self.stamp_ns or self.received_ns) + round(self.trajectory.times_s[0] * NS_PER_S)

    @property
    def stamp_ns(self) -> int:
        """0: from the moment of receipt."""
        return self.trajectory.stamp_ns


@dataclass(frozen=True)
class ChunkEvent:
    """A chunk the policy gave, in the robot file's order; action ``k`` is due ``times_s[k]`` after ``stamp_ns``."""

    received_ns: int
    trajectory: Trajectory

    @property
    def stamp_ns(self) -> int:
        """The time of the observation it answers."""
        return self.trajectory.stamp_ns


@dataclass(frozen=True)
class TraceEvent:
    """What went into a chunk."""

    received_ns: int
    trace: Trace


@dataclass(frozen=True)
class MarkerEvent:
    """An episode begins or ends: one of ``MARKERS``."""

    received_ns: int
    text: str


@dataclass(frozen=True)
class SceneEvent:
    """Where the things of the scene are, x and y in m by name."""

    received_ns: int
    places: Mapping[str, tuple[float, float]]


Event = (
    FrameEvent
    | JointsEvent
    | TaskEvent
    | ModeEvent
    | TeleopEvent
    | CommandEvent
    | ChunkEvent
    | TraceEvent
    | MarkerEvent
    | SceneEvent
)
