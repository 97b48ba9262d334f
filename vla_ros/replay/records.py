"""What one replay of one bag with one policy came to. Times are ns of ROS time, as the bag has them; positions are SI,
in the robot file's joint order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.replay.golden.fingerprint import InputFingerprint
from vla_ros.types import Mode

DRIVERS = (Mode.POLICY, Mode.TELEOP, Mode.HOLD, Mode.ESTOP, "")
"""Who drove when the bag was recorded; empty where it does not say."""


@dataclass(frozen=True)
class Series:
    """``values`` ``[num_samples, num_joints]`` float64 at increasing ``times_ns`` ``[num_samples]`` int64."""

    times_ns: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.times_ns)

    def at(self, times_ns: np.ndarray, max_gap_s: float) -> np.ndarray:
        """Linear between samples, ``[num_times, num_joints]``; NaN outside, and between samples further apart than
        ``max_gap_s``."""
        found = np.full((len(times_ns), self.values.shape[1]), np.nan)
        if len(self) < 2:
            return found
        after = np.clip(np.searchsorted(self.times_ns, times_ns), 1, len(self) - 1)
        before_ns, after_ns = self.times_ns[after - 1], self.times_ns[after]
        is_inside = (times_ns >= self.times_ns[0]) & (times_ns <= self.times_ns[-1])
        is_inside &= (after_ns - before_ns) <= max_gap_s * 1e9
        weight = ((times_ns - before_ns) / np.maximum(after_ns - before_ns, 1))[:, None]
        between = self.values[after - 1] + weight * (self.values[after] - self.values[after - 1])
        found[is_inside] = between[is_inside]
        return found


@dataclass(frozen=True)
class ReplayedChunk:
    """One chunk of the policy beside what the robot did.

    ``header_ns`` is its observation's time, ``asked_ns`` and ``arrived_ns`` when the request was made and the answer
    came; ``driver`` drove the robot at ``header_ns``, ``episode`` is an index into ``Replay.episodes``. ``positions``
    ``[horizon, num_joints]`` are due at ``due_ns`` ``[horizon]``; ``commanded`` and ``measured``, of the same shape,
    are what the robot was commanded and where it was then, NaN where the bag does not say or the episode was over.
    ``fingerprint`` is of what the model was given.
    """

    header_ns: int
    asked_ns: int
    arrived_ns: int
    driver: str
    episode: int
    due_ns: np.ndarray
    positions: np.ndarray
    commanded: np.ndarray
    measured: np.ndarray
    fingerprint: InputFingerprint


@dataclass(frozen=True)
class Span:
    """From ``start_ns`` up to ``end_ns``; ``label`` is a mode (``Replay.modes``), an instruction
    (``Replay.episodes``)."""

    start_ns: int
    end_ns: int
    label: str


@dataclass(frozen=True)
class Event:
    """Something that would have happened on the robot: ``kind`` is ``limit`` (``num_times`` commands in a row were
    bounded, the first at ``time_ns``; ``joint`` names which), ``watchdog`` (the loop let go or braked) or ``processor``
    (an observation or an answer was refused)."""

    time_ns: int
    kind: str
    line: str
    joint: str = ""
    num_times: int = 1


@dataclass(frozen=True)
class Replay:
    """One bag through the whole node.

    ``commands`` are what our loop would have sent and ``command_drivers`` ``[len(commands)]`` who drove the recorded
    robot then; ``recorded_commands`` what was sent, at their due times; ``joints`` the measured positions. ``modes`` is
    who drove, ``episodes`` the spans between instructions. ``assumed_latency_ms`` is how long answers were taken to
    need where the bag does not say and nobody else did, else None. ``problems`` are lines about the bag itself.
    """

    bag: str
    policy: str
    digest: str
    joint_names: tuple[str, ...]
    joint_ranges: np.ndarray
    chunk_dt_s: float
    start_ns: int
    end_ns: int
    episodes: tuple[Span, ...]
    modes: tuple[Span, ...]
    chunks: tuple[ReplayedChunk, ...]
    commands: Series
    command_drivers: np.ndarray
    recorded_commands: Series
    joints: Series
    events: tuple[Event, ...]
    assumed_latency_ms: float | None
    problems: tuple[str, ...]

    @property
    def interventions(self) -> tuple[Span, ...]:
        """When a human drove."""
        return tuple(span for span in self.modes if span.label == Mode.TELEOP)
