"""The result of replaying one bag with one policy. Times are ns of ROS time, as the bag has them; positions are SI,
in the robot file's joint order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np

from vla_ros.recordings.feed import without_numbers
from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.fingerprint import InputFingerprint
from vla_ros.strict import check_choice
from vla_ros.types import Answer, Mode
from vla_ros.units import NS_PER_S

COMMANDED, MEASURED = "commanded", "measured"
"""What a chunk is compared with."""
Chunk = TypeVar("Chunk")
DRIVER_FILTERS = {"policy": Mode.POLICY, "teleop": Mode.TELEOP, "any": None}


@dataclass(frozen=True)
class ReplayedChunk:
    """One chunk of the policy beside what the robot did.

    ``header_ns`` is its observation's time, ``asked_ns`` and ``arrived_ns`` when the request was made and the answer
    came; ``driver`` drove the robot at ``header_ns``, empty where the bag does not say, ``episode`` is an index into
    ``Replay.episodes``. ``positions`` ``[horizon, num_joints]`` are due at ``due_ns`` ``[horizon]``; ``commanded`` and
    ``measured``, of the same shape, are what the robot was commanded and where it was then, NaN where the bag does not
    say or the episode was over. ``fingerprint`` is of what the model was given.
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

    @classmethod
    def of(cls, answer: Answer, given: InputFingerprint) -> Self:
        """A chunk before it is known what the robot did."""
        chunk, times_ns = answer.chunk, (answer.observation.header_ns, answer.asked_ns, answer.arrived_ns)
        due_ns = np.array([chunk.due_ns(k) for k in range(chunk.horizon)])
        unknown = np.full_like(chunk.positions, np.nan)
        return cls(*times_ns, "", 0, due_ns, chunk.positions, unknown, unknown, given)

    def offset_from(self, target: str) -> np.ndarray:
        """``positions`` less those COMMANDED or MEASURED, ``[horizon, num_joints]``."""
        return self.positions - getattr(self, target)

    def motion_of(self, target: str) -> np.ndarray:
        """How far COMMANDED or MEASURED goes from where it is when the first action is due, ``[horizon, num_joints]``:
        what an arm is off that keeps its place."""
        positions: np.ndarray = getattr(self, target)
        return positions - positions[:1]


@dataclass(frozen=True)
class Stretch:
    """From ``start_ns`` up to ``end_ns``; ``label`` is a mode (``Replay.modes``), an instruction
    (``Replay.episodes``)."""

    start_ns: int
    end_ns: int
    label: str


@dataclass(frozen=True)
class Incident:
    """Something that would have happened on the robot: ``kind`` is ``limit`` (``num_times`` commands in a row were
    bounded, the first at ``time_ns``; ``joint`` names which), ``watchdog`` (the loop let go or braked) or ``processor``
    (an observation or an answer was refused)."""

    time_ns: int
    kind: str
    line: str
    joint: str = ""
    num_times: int = 1


class IncidentLog:
    """Incidents in the order of time; commands in a row that one limit of one joint bounds are one incident."""

    def __init__(self, joint_names: Sequence[str]) -> None:
        self.incidents: list[Incident] = []
        self._joint_names = joint_names
        self._bound = ("", "")
        self._bound_at = 0

    def add(self, now_ns: int, kind: str, line: str) -> None:
        self.incidents.append(Incident(now_ns, kind, line))

    def commanded(self, now_ns: int, reason: str) -> None:
        """A command, and the limit that bounded it: empty where none did."""
        joint = next((name for name in self._joint_names if f"'{name}'" in reason), "")
        bound = joint, without_numbers(reason)
        if reason and bound == self._bound:
            before = self.incidents[self._bound_at]
            self.incidents[self._bound_at] = replace(before, num_times=before.num_times + 1)
        elif reason:
            self._bound_at = len(self.incidents)
            self.incidents.append(Incident(now_ns, "limit", reason, joint))
        self._bound = bound


@dataclass(frozen=True)
class Replay:
    """One bag through the whole node.

    ``commands`` are what our loop would have sent and ``command_drivers`` ``[len(commands)]`` who drove the recorded
    robot then; ``recorded_commands`` what was sent, at their due times; ``joints`` the measured positions. ``modes`` is
    who drove, ``episodes`` the stretches between instructions. ``assumed_latency_ms`` is how long answers were taken to
    need where the bag does not say and nobody else did, else None. ``problems`` are lines about the bag itself.
    """

    bag: str
    policy: str
    digest: str
    joint_names: tuple[str, ...]
    joint_ranges: np.ndarray
    start_ns: int
    end_ns: int
    episodes: tuple[Stretch, ...]
    modes: tuple[Stretch, ...]
    chunks: tuple[ReplayedChunk, ...]
    commands: TimeSeries
    command_drivers: np.ndarray
    recorded_commands: TimeSeries
    joints: TimeSeries
    events: tuple[Incident, ...]
    assumed_latency_ms: float | None
    problems: tuple[str, ...]

    @property
    def interventions(self) -> tuple[Stretch, ...]:
        """When a human drove."""
        return tuple(stretch for stretch in self.modes if stretch.label == Mode.TELEOP)

    def seconds(self, times_ns: int | np.ndarray) -> float | np.ndarray:
        """Times of the bag as seconds since its start."""
        return (times_ns - self.start_ns) / NS_PER_S


def by_observation(chunks: Sequence[Chunk]) -> dict[tuple[int, int], Chunk]:
    """Chunks by their observation's ``header_ns`` and how many of it came before: a policy may be asked twice."""
    seen: Counter[int] = Counter()
    found = {}
    for chunk in chunks:
        found[chunk.header_ns, seen[chunk.header_ns]] = chunk
        seen[chunk.header_ns] += 1
    return found


def wanted_mode(driver: str) -> str | None:
    """The recorded mode that a driver filter wants; None for any. Raises ValueError for an unknown one."""
    check_choice("driver", driver, DRIVER_FILTERS)
    return DRIVER_FILTERS[driver]


def chunks_of(replay: Replay, driver: str) -> list[ReplayedChunk]:
    """The chunks for whose observation the recorded driver fits."""
    mode = wanted_mode(driver)
    return [chunk for chunk in replay.chunks if mode in (None, chunk.driver)]


def check_same_policy(first: Replay, replay: Replay) -> None:
    """Raises ValueError unless both are of one policy and one robot."""
    if (replay.policy, replay.digest) != (first.policy, first.digest):
        got = f"bag {replay.bag} with policy '{replay.policy}', bag {first.bag} with '{first.policy}'"
        raise ValueError(f"{got}; expected one policy for all bags of a summary")
    if replay.joint_names != first.joint_names or not np.array_equal(replay.joint_ranges, first.joint_ranges):
        raise ValueError(f"bags {first.bag} and {replay.bag} were replayed on different robots; expected the same")
