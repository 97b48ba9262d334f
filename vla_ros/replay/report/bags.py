"""What the report's charts show, drawn from the replays."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.replay.averages import mean_of_known
from vla_ros.replay.beside import MAX_GAP_S
from vla_ros.replay.records import Event, Replay, ReplayedChunk
from vla_ros.replay.report.content import Moment, ReportInput

MIN_RANGE = 1e-9


@dataclass(frozen=True)
class Mark:
    """Where in a bag the worst moment ``number`` lies; ``policy`` is an index."""

    number: int
    time_ns: int
    policy: int


@dataclass(frozen=True)
class NumberedMoment:
    """A worst moment, its number, and the index of its policy."""

    number: int
    policy: int
    moment: Moment


@dataclass(frozen=True)
class Bag:
    """One bag: ``name`` is short, ``replays`` one for each policy; chunks count where one of ``compared_drivers``
    drove."""

    name: str
    replays: tuple[Replay, ...]
    marks: tuple[Mark, ...]
    compared_drivers: tuple[str, ...]

    @property
    def first(self) -> Replay:
        """Says what the bag itself does: the same in each replay."""
        return self.replays[0]

    @property
    def length_s(self) -> float:
        return max(self.seconds(self.first.end_ns), 1e-3)

    def seconds(self, time_ns: int) -> float:
        """Since the bag's start."""
        return (int(time_ns) - self.first.start_ns) / 1e9

    def all_seconds(self, times_ns: np.ndarray) -> np.ndarray:
        return (np.asarray(times_ns, np.int64) - self.first.start_ns) / 1e9


@dataclass(frozen=True)
class Curve:
    """``values`` ``[num_samples]`` at increasing ``times_ns``; NaN interrupts it."""

    times_ns: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class EventGroup:
    """Events of one ``kind`` that say the same but for their numbers, of one policy (an index) in one bag; ``line``
    is the first's. Of limits ``num_times`` counts commands, of the others events."""

    bag: str
    policy: int
    kind: str
    line: str
    num_times: int
    first_s: float
    last_s: float


def bags_of(content: ReportInput) -> tuple[Bag, ...]:
    """The bags in their order, named by what tells them apart."""
    paths = [replay.bag for replay in content.policies[0].replays]
    marks: dict[str, list[Mark]] = {path: [] for path in paths}
    for found in moments_of(content):
        marks[found.moment.bag].append(Mark(found.number, found.moment.chunk.header_ns, found.policy))
    return tuple(
        Bag(name, tuple(policy.replays[i] for policy in content.policies), tuple(marks[path]), content.compared_drivers)
        for i, (name, path) in enumerate(zip(short_names(paths), paths, strict=True))
    )


def moments_of(content: ReportInput) -> tuple[NumberedMoment, ...]:
    """The worst moments of one policy after the other, numbered from 1."""
    found = [(i, moment) for i, policy in enumerate(content.policies) for moment in policy.moments]
    return tuple(NumberedMoment(number, i, moment) for number, (i, moment) in enumerate(found, 1))


def short_names(paths: list[str]) -> list[str]:
    """The last part of each path; where two agree in that, what follows the folder all have in common."""
    last = [Path(path).name or path for path in paths]
    if len(set(last)) == len(last) or len({Path(path).is_absolute() for path in paths}) > 1:
        return last
    common = os.path.commonpath([str(Path(path).parent) for path in paths])
    return [os.path.relpath(path, common or ".") for path in paths]


def ranges_of(replay: Replay) -> np.ndarray:
    """``[num_joints]``; a joint without a range counts as NaN."""
    return np.where(replay.joint_ranges > MIN_RANGE, replay.joint_ranges, np.nan)


def has_commands(replay: Replay) -> bool:
    """Whether the bag says what the robot was commanded; else its motion has to do."""
    return len(replay.recorded_commands) > 0


def reference_of(replay: Replay, chunk: ReplayedChunk) -> np.ndarray:
    """``[horizon, num_joints]`` to compare ``chunk`` with."""
    return chunk.commanded if has_commands(replay) else chunk.measured


def chunk_errors(replay: Replay) -> np.ndarray:
    """``[num_chunks]``: the mean distance of each chunk from the recording as a fraction of the joints' ranges; NaN
    where nothing was recorded at its times."""
    return np.array(
        [mean_of_known(abs(c.positions - reference_of(replay, c)) / ranges_of(replay)) for c in replay.chunks],
        np.float64,
    )


def broken_at_gaps(times_ns: np.ndarray, values: np.ndarray, max_gap_s: float = MAX_GAP_S) -> Curve:
    """``values`` ``[num_samples]`` with a NaN in each gap: nothing is known there."""
    gaps = np.flatnonzero(np.diff(times_ns) > max_gap_s * 1e9) + 1
    return Curve(np.insert(times_ns, gaps, times_ns[gaps] - 1), np.insert(values, gaps, np.nan))


def grouped_events(bag: Bag) -> tuple[EventGroup, ...]:
    """Every event of a bag, the same ones together, in the order of their first time."""
    groups: list[EventGroup] = []
    for i, replay in enumerate(bag.replays):
        alike: dict[tuple[str, str, str], list[Event]] = {}
        for event in replay.events:
            alike.setdefault((event.kind, event.joint, re.sub(r"\d+(\.\d+)?", "#", event.line)), []).append(event)
        for (kind, _, _), events in alike.items():
            first_s, last_s = bag.seconds(events[0].time_ns), bag.seconds(events[-1].time_ns)
            num_times = sum(event.num_times for event in events)
            groups.append(EventGroup(bag.name, i, kind, events[0].line, num_times, first_s, last_s))
    return tuple(sorted(groups, key=lambda group: group.first_s))
