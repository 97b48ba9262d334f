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
class BagEvent:
    """What one message says."""

    received_ns: int


@dataclass(frozen=True)
class FrameEvent(BagEvent):
    """An image of one camera. Its pixels may be decoded only when they are looked at: see ``Frame``."""

    frame: Frame


@dataclass(frozen=True)
class JointsEvent(BagEvent):
    """Measured joints, in the robot file's order."""

    sample: JointSample


@dataclass(frozen=True)
class TaskEvent(BagEvent):
    """The instruction from now on."""

    task: str


@dataclass(frozen=True)
class ModeEvent(BagEvent):
    """Who drives from now on; published with every command, too."""

    mode: Mode


@dataclass(frozen=True)
class _TrajectoryEvent(BagEvent):
    trajectory: Trajectory

    @property
    def stamp_ns(self) -> int:
        """0: from the moment of receipt."""
        return self.trajectory.stamp_ns


class TeleopEvent(_TrajectoryEvent):
    """What a human wants of the joints, in the robot file's order; NaN for one that isn't named."""


class ChunkEvent(_TrajectoryEvent):
    """A chunk the policy gave, in the robot file's order; action ``k`` is due ``times_s[k]`` after ``stamp_ns``, the
    time of the observation it answers."""


@dataclass(frozen=True)
class CommandEvent(_TrajectoryEvent):
    """A command to the output ``group`` of the robot file, in the order of its joints.

    One on a ``forward`` interface is a single point one control period ahead, which is what its publisher means by it.
    """

    group: str

    @property
    def due_ns(self) -> int:
        """When the joints are to be at its first point."""
        return (self.stamp_ns or self.received_ns) + round(self.trajectory.times_s[0] * NS_PER_S)


@dataclass(frozen=True)
class TraceEvent(BagEvent):
    """What went into a chunk."""

    trace: Trace


@dataclass(frozen=True)
class MarkerEvent(BagEvent):
    """An episode begins or ends: one of ``MARKERS``."""

    text: str


@dataclass(frozen=True)
class SceneEvent(BagEvent):
    """Where the things of the scene are, x and y in m by name."""

    places: Mapping[str, tuple[float, float]]
