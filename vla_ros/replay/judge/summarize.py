"""What the replays of one policy say about it: its chunks and commands beside what the robot did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vla_ros.replay.judge.summary import (
    INCIDENT_KINDS,
    BagIncident,
    ErrorTable,
    Intervention,
    PolicySummary,
    WorstMoment,
)
from vla_ros.replay.records import COMMANDED, MEASURED, Replay, ReplayedChunk, Stretch
from vla_ros.replay.series import mean_of_known
from vla_ros.types import Mode
from vla_ros.units import MS_PER_NS, NS_PER_S

DRIVER_FILTERS = {"policy": Mode.POLICY, "teleop": Mode.TELEOP, "any": None}
NUM_WORST = 6
WORST_APART_S = 1.0
NUM_FIRST_INCIDENTS = 20
NUM_PROBLEMS = 3


def summarize(replays: Sequence[Replay], driver: str = "any") -> PolicySummary:
    """What all bags of one policy come to.

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
        worst=_worst(replays, driver),
    )


def wanted_mode(driver: str) -> str | None:
    """The recorded mode that a driver filter wants; None for any. Raises ValueError for an unknown one."""
    if driver not in DRIVER_FILTERS:
        raise ValueError(f"driver is '{driver}'; expected one of {', '.join(DRIVER_FILTERS)}")
    return DRIVER_FILTERS[driver]


def chunks_of(replay: Replay, driver: str) -> list[ReplayedChunk]:
    """The chunks for whose observation the recorded driver fits."""
    mode = wanted_mode(driver)
    return [chunk for chunk in replay.chunks if mode in (None, chunk.driver)]


def check_same_policy(replays: Sequence[Replay]) -> None:
    """Raises ValueError unless there are replays, and all of one policy and one robot, each bag once."""
    if not replays:
        raise ValueError("no bag was replayed; expected at least one")
    first = replays[0]
    for replay in replays:
        if (replay.policy, replay.digest) != (first.policy, first.digest):
            got = f"bag {replay.bag} with policy '{replay.policy}', bag {first.bag} with '{first.policy}'"
            raise ValueError(f"{got}; expected one policy for all bags of a summary")
        if replay.joint_names != first.joint_names or not np.array_equal(replay.joint_ranges, first.joint_ranges):
            raise ValueError(f"bags {first.bag} and {replay.bag} were replayed on different robots; expected the same")
    counts = Counter(replay.bag for replay in replays)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise ValueError(f"bag {repeated[0]} is given twice; expected each once")


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


def _worst(replays: Sequence[Replay], driver: str) -> tuple[WorstMoment, ...]:
    """The largest errors first; no two within ``WORST_APART_S`` of each other, which would be the same moment."""
    mode = wanted_mode(driver)
    moments = [
        _moment(replay, index, chunk)
        for replay in replays
        for index, chunk in enumerate(replay.chunks)
        if mode in (None, chunk.driver) and np.isfinite(chunk.commanded).any()
    ]
    chosen: list[WorstMoment] = []
    for moment in sorted(moments, key=lambda moment: -moment.error):
        is_new = all(
            moment.bag != other.bag or abs(moment.header_ns - other.header_ns) >= WORST_APART_S * NS_PER_S
            for other in chosen
        )
        if is_new and len(chosen) < NUM_WORST:
            chosen.append(moment)
    return tuple(chosen)


def _moment(replay: Replay, index: int, chunk: ReplayedChunk) -> WorstMoment:
    errors = np.abs(chunk.offset_from(COMMANDED))
    fractions = errors / replay.joint_ranges
    step, joint = np.unravel_index(np.nanargmax(fractions), errors.shape)
    return WorstMoment(
        bag=replay.bag,
        header_ns=chunk.header_ns,
        time_s=replay.seconds(chunk.header_ns),
        chunk_index=index,
        error=float(mean_of_known(fractions)),
        joint=replay.joint_names[joint],
        step=int(step),
        joint_error=float(errors[step, joint]),
    )
