"""What the replays of one policy say about it: its chunks and commands beside what the robot did, and what people
should look at: where a human drove, and where it was furthest from what was commanded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.recordings.series import mean_of_known
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
    ``command_mae`` [num_joints] our commands against the recorded ones, in each joint's unit, over ``num_commands``,
    and ``command_mae_overall`` their mean as a fraction of the ranges. ``ahead_s`` [horizon] is when each action is due
    after its observation; ``num_by_driver`` counts the compared chunks by who drove (empty: not said); ``latencies_ms``
    [num_chunks] are from the observation to the arrival of its chunk. Incidents and interventions are of the whole
    bags: a limit counts, whoever drove. ``num_incidents`` counts them by kind, of limits the commands they bounded;
    ``first_incidents`` are the first of them.
    """

    name: str
    digest: str
    driver: str
    bags: tuple[str, ...]
    joint_names: tuple[str, ...]
    ahead_s: np.ndarray
    num_chunks: int
    num_by_driver: Mapping[str, int]
    num_episodes: int
    commanded: ErrorTable
    measured: ErrorTable
    num_commands: int
    command_mae: np.ndarray
    command_mae_overall: float
    num_incidents: Mapping[str, int]
    first_incidents: Mapping[str, tuple[BagIncident, ...]]
    latencies_ms: np.ndarray
    interventions: tuple[Intervention, ...]
    worst: tuple[WorstMoment, ...]

    @property
    def errors(self) -> ErrorTable:
        """Against the commands where a bag has them, else against the motion."""
        return self.commanded if self.commanded.is_known else self.measured

    def latency_ms(self, percent: float) -> float:
        """So many percent of the answers came within this time."""
        return float(np.percentile(self.latencies_ms, percent))


def summarize(replays: Sequence[Replay], driver: str = "any") -> PolicySummary:
    """The summary of all bags replayed with one policy.

    Raises ValueError for an unknown ``driver``, for replays that don't belong together, and where nothing is left to
    compare.
    """
    check_same_policy(replays)
    first, by_bag = replays[0], [chunks_of(replay, driver) for replay in replays]
    chunks = [chunk for found in by_bag for chunk in found]
    if not chunks:
        raise ValueError(_nothing_left(replays, driver))
    commanded, measured = (_error_table(chunks, target, first.joint_ranges) for target in (COMMANDED, MEASURED))
    if not (commanded.is_known or measured.is_known):
        raise ValueError(
            f"{len(chunks)} chunks, and no command or joint state was recorded where they are due; expected either: "
            "check the topics of outputs and joint_states in the robot file"
        )
    command_errors = np.concatenate([_command_errors(replay, driver) for replay in replays])
    command_mae = mean_of_known(command_errors, axis=0)
    by_kind = {kind: _incidents(replays, kind) for kind in INCIDENT_KINDS}
    return PolicySummary(
        name=first.policy,
        digest=first.digest,
        driver=driver,
        bags=tuple(replay.bag for replay in replays),
        joint_names=first.joint_names,
        ahead_s=(chunks[0].due_ns - chunks[0].header_ns) / NS_PER_S,
        num_chunks=len(chunks),
        num_by_driver=dict(sorted(Counter(chunk.driver for chunk in chunks).items())),
        num_episodes=sum(len({chunk.episode for chunk in found}) for found in by_bag),
        commanded=commanded,
        measured=measured,
        num_commands=int(np.isfinite(command_errors).any(axis=1).sum()),
        command_mae=command_mae,
        command_mae_overall=float(mean_of_known(command_mae / first.joint_ranges)),
        num_incidents={kind: sum(one.num_times for one in found) for kind, found in by_kind.items()},
        first_incidents={kind: tuple(found[:NUM_FIRST_INCIDENTS]) for kind, found in by_kind.items()},
        latencies_ms=np.array([chunk.arrived_ns - chunk.header_ns for chunk in chunks]) * MS_PER_NS,
        interventions=tuple(_intervention(replay, human) for replay in replays for human in replay.interventions),
        worst=_worst_moments(replays, driver),
    )


def _nothing_left(replays: Sequence[Replay], driver: str) -> str:
    counts = Counter(chunk.driver or "nobody known" for replay in replays for chunk in replay.chunks)
    if not counts:
        problems = [line for replay in replays for line in replay.problems][:NUM_PROBLEMS]
        refused = [event.line for replay in replays for event in replay.events if event.kind == "processor"][:1]
        why = "; ".join((*problems, *refused)) or "check their cameras, joint states and tasks"
        return f"the policy gave no chunk in any bag; expected some: {why}"
    got = ", ".join(f"{count} while {name} drove" for name, count in sorted(counts.items()))
    return f"driver '{driver}' leaves no chunk to compare: there are {got}; give another --driver, or any"


def _error_table(chunks: Sequence[ReplayedChunk], target: str, ranges: np.ndarray) -> ErrorTable:
    errors = np.abs([chunk.offset_from(target) for chunk in chunks])
    by_joint, by_step = mean_of_known(errors, axis=(0, 1)), mean_of_known(errors, axis=0)
    return ErrorTable(by_joint, by_step, by_joint / ranges, mean_of_known(by_step / ranges, axis=1))


def _command_errors(replay: Replay, driver: str) -> np.ndarray:
    """[num_commands, num_joints], NaN where nothing was recorded."""
    errors = np.abs(replay.commands.values - replay.recorded_commands.at(replay.commands.times_ns))
    mode = wanted_mode(driver)
    return errors if mode is None else errors[replay.command_drivers == mode]


def _incidents(replays: Sequence[Replay], kind: str) -> list[BagIncident]:
    return [
        BagIncident(replay.bag, replay.seconds(event.time_ns), event.joint, event.line, event.num_times)
        for replay in replays
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


def _worst_moments(replays: Sequence[Replay], driver: str) -> tuple[WorstMoment, ...]:
    """The largest errors first; no two within ``WORST_APART_S`` of each other, which would be the same moment."""
    moments = [
        _moment(replay, chunk)
        for replay in replays
        for chunk in chunks_of(replay, driver)
        if np.isfinite(chunk.commanded).any()
    ]
    chosen: list[WorstMoment] = []
    for moment in sorted(moments, key=lambda moment: -moment.error):
        is_new = all(
            moment.bag != other.bag or abs(moment.header_ns - other.header_ns) >= WORST_APART_S * NS_PER_S
            for other in chosen
        )
        if is_new:
            chosen.append(moment)
    return tuple(chosen[:NUM_WORST])


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
