"""What the replays of one policy say about it: its chunks and commands beside what the robot did, and what people
should look at: where a human drove, and where it was furthest from what was commanded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.recordings.series import mean_of_known, ratio
from vla_ros.replay.records import (
    COMMANDED,
    MEASURED,
    Replay,
    ReplayedChunk,
    Stretch,
    check_same_policy,
    chunks_of,
    wanted_mode,
)
from vla_ros.types import Mode
from vla_ros.units import MS_PER_NS, NS_PER_S

INCIDENT_KINDS = ("limit", "watchdog", "processor")
NUM_FIRST_INCIDENTS = 20
NUM_PROBLEMS = 3
NUM_WORST = 6
WORST_APART_S = 1.0


@dataclass(frozen=True)
class ErrorTable:
    """Mean absolute errors, NaN where nothing was there to compare with.

    ``by_joint`` [num_joints] and ``by_step`` [horizon, num_joints] (by step ahead) are in each joint's unit;
    ``by_joint_fraction`` [num_joints] and ``by_step_fraction`` [horizon], a mean over joints, are fractions of the
    joints' ranges, and so is ``overall``.
    """

    by_joint: np.ndarray
    by_step: np.ndarray
    by_joint_fraction: np.ndarray
    by_step_fraction: np.ndarray

    @property
    def overall(self) -> float:
        return float(mean_of_known(self.by_joint_fraction))

    @property
    def is_known(self) -> bool:
        """Whether anything was there to compare with."""
        return bool(np.isfinite(self.by_joint).any())


@dataclass(frozen=True)
class BagIncident:
    """An incident of one bag, ``time_s`` after its start: ``num_times`` of them in a row, as ``Incident`` has it."""

    bag: str
    time_s: float
    joint: str
    line: str
    num_times: int


@dataclass(frozen=True)
class Intervention:
    """A human drove: what the policy would have done lay this far from what they did.

    ``start_s`` is since the bag's start. Arrays are [num_joints], in each joint's unit, NaN where nothing was there:
    ``commanded`` and ``measured`` mean absolute errors against what the human commanded and where the robot then was,
    ``offset`` the first of them with its sign, the policy's less the human's. ``largest`` is the largest error against
    the commands, in the unit of ``largest_joint`` and chosen by fraction of its range; NaN and empty where nothing was
    there.
    """

    bag: str
    start_s: float
    duration_s: float
    num_chunks: int
    commanded: np.ndarray
    measured: np.ndarray
    offset: np.ndarray
    largest: float
    largest_joint: str


@dataclass(frozen=True)
class WorstMoment:
    """A chunk far from what the robot was commanded: ``error`` is its mean, a fraction of the joints' ranges.

    Furthest off is ``joint`` at ``step`` (0 is the first), by ``joint_error`` in its unit; ``time_s`` is since the
    bag's start.
    """

    bag: str
    replay: Replay
    chunk: ReplayedChunk
    header_ns: int
    time_s: float
    error: float
    joint: str
    step: int
    joint_error: float


@dataclass(frozen=True)
class PolicySummary:
    """One policy over some bags, as far as the recorded driver is ``driver`` (``policy``, ``teleop`` or ``any``).

    ``commanded`` and ``measured`` hold chunks against what the robot was then commanded and where it then was;
    ``resting`` is what an arm would be off that had kept its place instead, against the same as ``errors``;
    ``command_mae`` [num_joints] our commands against the recorded ones, in each joint's unit, over ``num_commands``,
    and ``command_mae_overall`` their mean as a fraction of the ranges. ``ahead_s`` [horizon] is when each action is due
    after its observation; ``num_by_driver`` counts the compared chunks by who drove (empty: not said); ``latencies_ms``
    [num_chunks] are from the observation to the arrival of its chunk. Incidents and interventions are of the whole
    bags: a limit counts, whoever drove. ``num_incidents`` counts them by kind, of limits the commands they bounded;
    ``first_incidents`` are the first of them. ``recorded_s`` is how long all bags are, ``problems`` are lines about
    them.
    """

    name: str
    digest: str
    driver: str
    bags: tuple[str, ...]
    recorded_s: float
    joint_names: tuple[str, ...]
    joint_ranges: np.ndarray
    ahead_s: np.ndarray
    num_chunks: int
    num_by_driver: Mapping[str, int]
    num_episodes: int
    commanded: ErrorTable
    measured: ErrorTable
    resting: ErrorTable
    num_commands: int
    command_mae: np.ndarray
    command_mae_overall: float
    num_incidents: Mapping[str, int]
    first_incidents: Mapping[str, tuple[BagIncident, ...]]
    latencies_ms: np.ndarray
    interventions: tuple[Intervention, ...]
    worst: tuple[WorstMoment, ...]
    problems: tuple[str, ...]

    @property
    def errors(self) -> ErrorTable:
        """Against the commands where a bag has them, else against the motion."""
        return self.commanded if self.commanded.is_known else self.measured

    def latency_ms(self, percent: float) -> float:
        """So many percent of the answers came within this time."""
        return float(np.percentile(self.latencies_ms, percent))


def summarize(replays: Iterable[Replay], driver: str = "any") -> PolicySummary:
    """The summary of all bags replayed with one policy, of which one is looked at at a time.

    Raises ValueError for an unknown ``driver``, for replays that don't belong together, and where nothing is left to
    compare.
    """
    tally = _Tally(driver)
    for replay in replays:
        tally.add(replay)
    return tally.summary()


class _Errors:
    """Means of absolute errors ``[..., num_joints]``, each array of which is added by itself."""

    def __init__(self) -> None:
        self._sums: np.ndarray | float = 0.0
        self._counts: np.ndarray | int = 0

    def add(self, offsets: np.ndarray) -> None:
        """Of ``[num, ..., num_joints]``, NaN where nothing is known."""
        is_known = np.isfinite(offsets)
        self._sums = self._sums + np.where(is_known, np.abs(offsets), 0.0).sum(axis=0)
        self._counts = self._counts + is_known.sum(axis=0)

    def mean(self) -> np.ndarray:
        """``[..., num_joints]``, NaN where nothing was known."""
        return ratio(self._sums, self._counts)

    def by_joint(self) -> np.ndarray:
        """``[num_joints]``."""
        num_joints = np.shape(self._sums)[-1]
        sums, counts = (np.reshape(of, (-1, num_joints)).sum(axis=0) for of in (self._sums, self._counts))
        return ratio(sums, counts)

    def table(self, ranges: np.ndarray) -> ErrorTable:
        by_joint, by_step = self.by_joint(), self.mean()
        return ErrorTable(by_joint, by_step, by_joint / ranges, mean_of_known(by_step / ranges, axis=1))


class _Tally:
    """What has been seen of the bags so far: a few numbers of each chunk and the lines of each bag."""

    def __init__(self, driver: str) -> None:
        self._driver, self._mode = driver, wanted_mode(driver)
        self._first: Replay | None = None
        self._ahead_ns: np.ndarray | None = None
        self._bags: dict[str, None] = {}
        self._errors = {target: _Errors() for target in (COMMANDED, MEASURED)}
        self._resting = {target: _Errors() for target in (COMMANDED, MEASURED)}
        self._all_drivers: Counter[str] = Counter()
        self._drivers: Counter[str] = Counter()
        self._num_episodes = self._num_commands = 0
        self._command_errors = _Errors()
        self._num_incidents = dict.fromkeys(INCIDENT_KINDS, 0)
        self._incidents: dict[str, list[BagIncident]] = {kind: [] for kind in INCIDENT_KINDS}
        self._latencies_ms: list[np.ndarray] = []
        self._interventions: list[Intervention] = []
        self._worst: list[WorstMoment] = []
        self._problems: list[str] = []
        self._recorded_s = 0.0

    def add(self, replay: Replay) -> None:
        self._first = self._first or replay
        check_same_policy(self._first, replay)
        if replay.bag in self._bags:
            raise ValueError(f"bag {replay.bag} is given twice; expected each once")
        self._bags[replay.bag] = None
        self._problems += replay.problems
        self._recorded_s += (replay.end_ns - replay.start_ns) / NS_PER_S
        self._all_drivers.update(chunk.driver or "nobody known" for chunk in replay.chunks)
        chunks = chunks_of(replay, self._driver)
        if chunks:
            self._add_chunks(chunks)
        self._add_commands(replay)
        for kind, found in self._incidents.items():
            incidents = _incidents(replay, kind)
            self._num_incidents[kind] += sum(one.num_times for one in incidents)
            found += incidents[: NUM_FIRST_INCIDENTS - len(found)]
        self._interventions += [_intervention(replay, human) for human in replay.interventions]
        self._worst = _worst_first([*self._worst, *_worst_moments(replay, chunks)])[:NUM_WORST]

    def _add_chunks(self, chunks: Sequence[ReplayedChunk]) -> None:
        if self._ahead_ns is None:
            self._ahead_ns = chunks[0].due_ns - chunks[0].header_ns
        for target, errors in self._errors.items():
            errors.add(np.stack([chunk.offset_from(target) for chunk in chunks]))
            self._resting[target].add(np.stack([chunk.motion_of(target) for chunk in chunks]))
        self._drivers.update(chunk.driver for chunk in chunks)
        self._num_episodes += len({chunk.episode for chunk in chunks})
        self._latencies_ms.append(np.array([chunk.arrived_ns - chunk.header_ns for chunk in chunks]) * MS_PER_NS)

    def _add_commands(self, replay: Replay) -> None:
        """Ours against the recorded ones, as far as the driver fits."""
        offsets = replay.commands.values - replay.recorded_commands.at(replay.commands.times_ns)
        if self._mode is not None:
            offsets = offsets[replay.command_drivers == self._mode]
        self._command_errors.add(offsets)
        self._num_commands += int(np.isfinite(offsets).any(axis=1).sum())

    def summary(self) -> PolicySummary:
        first = self._first
        if first is None:
            raise ValueError("no bag was replayed; expected at least one")
        if self._ahead_ns is None:
            raise ValueError(self._nothing_left())
        commanded, measured = (self._errors[target].table(first.joint_ranges) for target in (COMMANDED, MEASURED))
        if not (commanded.is_known or measured.is_known):
            raise ValueError(
                f"{self._drivers.total()} chunks, and no command or joint state was recorded where they are due; "
                "expected either: check the topics of outputs and joint_states in the robot file"
            )
        command_mae = self._command_errors.by_joint()
        return PolicySummary(
            name=first.policy,
            digest=first.digest,
            driver=self._driver,
            bags=tuple(self._bags),
            recorded_s=self._recorded_s,
            joint_names=first.joint_names,
            joint_ranges=first.joint_ranges,
            ahead_s=self._ahead_ns / NS_PER_S,
            num_chunks=self._drivers.total(),
            num_by_driver=dict(sorted(self._drivers.items())),
            num_episodes=self._num_episodes,
            commanded=commanded,
            measured=measured,
            resting=self._resting[COMMANDED if commanded.is_known else MEASURED].table(first.joint_ranges),
            num_commands=self._num_commands,
            command_mae=command_mae,
            command_mae_overall=float(mean_of_known(command_mae / first.joint_ranges)),
            num_incidents=self._num_incidents,
            first_incidents={kind: tuple(found) for kind, found in self._incidents.items()},
            latencies_ms=np.concatenate(self._latencies_ms),
            interventions=tuple(self._interventions),
            worst=tuple(self._worst),
            problems=tuple(self._problems),
        )

    def _nothing_left(self) -> str:
        if not self._all_drivers:
            refused = [one.line for one in self._incidents["processor"][:1]]
            why = "; ".join((*self._problems[:NUM_PROBLEMS], *refused)) or "check their cameras, joint states and tasks"
            return f"the policy gave no chunk in any bag; expected some: {why}"
        got = ", ".join(f"{count} while {name} drove" for name, count in sorted(self._all_drivers.items()))
        return f"driver '{self._driver}' leaves no chunk to compare: there are {got}; give another --driver, or any"


def _incidents(replay: Replay, kind: str) -> list[BagIncident]:
    return [
        BagIncident(replay.bag, replay.seconds(event.time_ns), event.joint, event.line, event.num_times)
        for event in replay.events
        if event.kind == kind
    ]


def _intervention(replay: Replay, human: Stretch) -> Intervention:
    """What the policy wanted while a human drove."""
    chunks = [chunk for chunk in replay.chunks if human.start_ns <= chunk.header_ns < human.end_ns]
    offsets, measured = (
        np.stack([chunk.offset_from(target) for chunk in chunks] or [np.zeros((0, len(replay.joint_names)))])
        for target in (COMMANDED, MEASURED)
    )
    errors = np.abs(offsets)
    largest, joint = np.nan, ""
    if np.isfinite(errors).any():
        index = np.unravel_index(np.nanargmax(errors / replay.joint_ranges), errors.shape)
        largest, joint = float(errors[index]), replay.joint_names[index[-1]]
    return Intervention(
        bag=replay.bag,
        start_s=replay.seconds(human.start_ns),
        duration_s=(human.end_ns - human.start_ns) / NS_PER_S,
        num_chunks=len(chunks),
        commanded=mean_of_known(errors, axis=(0, 1)),
        measured=mean_of_known(np.abs(measured), axis=(0, 1)),
        offset=mean_of_known(offsets, axis=(0, 1)),
        largest=largest,
        largest_joint=joint,
    )


def _worst_moments(replay: Replay, chunks: Sequence[ReplayedChunk]) -> list[WorstMoment]:
    """The largest errors of one bag first; no two within ``WORST_APART_S`` of each other, which would be the same
    moment. Where a policy drove, those of its own drive: a human who took over did so to do something else."""
    known = [chunk for chunk in chunks if np.isfinite(chunk.commanded).any()]
    driven = [chunk for chunk in known if chunk.driver == Mode.POLICY]
    moments = [_moment(replay, chunk) for chunk in driven or known]
    chosen: list[WorstMoment] = []
    for moment in _worst_first(moments):
        if len(chosen) == NUM_WORST:
            break
        if all(abs(moment.header_ns - other.header_ns) >= WORST_APART_S * NS_PER_S for other in chosen):
            chosen.append(moment)
    return chosen


def _worst_first(moments: Sequence[WorstMoment]) -> list[WorstMoment]:
    return sorted(moments, key=lambda moment: -moment.error)


def _moment(replay: Replay, chunk: ReplayedChunk) -> WorstMoment:
    errors = np.abs(chunk.offset_from(COMMANDED))
    fractions = errors / replay.joint_ranges
    step, joint = np.unravel_index(np.nanargmax(fractions), errors.shape)
    return WorstMoment(
        bag=replay.bag,
        replay=replay,
        chunk=chunk,
        header_ns=chunk.header_ns,
        time_s=replay.seconds(chunk.header_ns),
        error=float(mean_of_known(fractions)),
        joint=replay.joint_names[joint],
        step=int(step),
        joint_error=float(errors[step, joint]),
    )
