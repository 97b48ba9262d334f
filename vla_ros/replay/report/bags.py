"""The bags, worst moments and incidents of a session, in the order in which its report shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from vla_ros.recordings.feed import without_numbers
from vla_ros.recordings.series import mean_of_known
from vla_ros.replay.judge.summary import WorstMoment
from vla_ros.replay.records import COMMANDED, MEASURED, Incident, Replay, ReplayedChunk, wanted_mode
from vla_ros.replay.session import ReplaySession


@dataclass(frozen=True)
class NumberedMoment:
    """A worst moment of the policy with this index."""

    number: int
    policy: int
    moment: WorstMoment


@dataclass(frozen=True)
class Bag:
    """One bag: ``name`` is short, ``replays`` one for each policy; chunks count where ``mode`` drove (None: any)."""

    name: str
    replays: tuple[Replay, ...]
    moments: tuple[NumberedMoment, ...]
    mode: str | None

    @property
    def first(self) -> Replay:
        """Says what the bag itself does: the same in each replay."""
        return self.replays[0]

    @property
    def length_s(self) -> float:
        return max(self.first.seconds(self.first.end_ns), 1e-3)

    @property
    def has_commands(self) -> bool:
        """Whether the bag says what the robot was commanded; else its motion has to do."""
        return len(self.first.recorded_commands) > 0

    @property
    def target(self) -> str:
        """What its chunks are compared with."""
        return COMMANDED if self.has_commands else MEASURED

    @property
    def modes(self) -> list[str]:
        """Who drove, as far as it is known."""
        return list(dict.fromkeys(mode.label for mode in self.first.modes if mode.label))

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line for replay in self.replays for line in replay.problems))

    @property
    def has_others(self) -> bool:
        """Whether some chunks don't count."""
        return any(not self.counts(chunk) for replay in self.replays for chunk in replay.chunks)

    def counts(self, chunk: ReplayedChunk) -> bool:
        return self.mode in (None, chunk.driver)

    def errors(self, replay: Replay) -> np.ndarray:
        """``[num_chunks]``: the mean distance of each chunk from the recording as a fraction of the joints' ranges; NaN
        where nothing was recorded at its times."""
        if not replay.chunks:
            return np.zeros(0)
        errors = np.abs([chunk.offset_from(self.target) for chunk in replay.chunks])
        return mean_of_known(errors / replay.joint_ranges, axis=(1, 2))

    def mean_error(self, replay: Replay) -> float:
        """Over the chunks that count."""
        return float(mean_of_known(self.errors(replay)[[self.counts(chunk) for chunk in replay.chunks]]))


@dataclass(frozen=True)
class BagRow:
    """What a table of all bags says of one; ``chunks``, ``mean_errors`` and ``events`` are one for each policy."""

    name: str
    length_s: float
    num_episodes: int
    num_takeovers: int
    chunks: tuple[int, ...]
    mean_errors: tuple[float, ...]
    events: tuple[int, ...]
    problems: tuple[str, ...]

    @classmethod
    def of(cls, bag: Bag) -> Self:
        """The row of ``bag``."""
        return cls(
            name=bag.name,
            length_s=bag.length_s,
            num_episodes=len(bag.first.episodes),
            num_takeovers=len(bag.first.interventions),
            chunks=tuple(len(replay.chunks) for replay in bag.replays),
            mean_errors=tuple(bag.mean_error(replay) for replay in bag.replays),
            events=tuple(sum(event.num_times for event in replay.events) for replay in bag.replays),
            problems=bag.problems,
        )

    @property
    def largest_error(self) -> float:
        """Of any policy; where there is none, less than all others."""
        return max(float(np.nan_to_num(error, nan=-1.0)) for error in self.mean_errors)


@dataclass(frozen=True)
class IncidentGroup:
    """Incidents of one policy (an index) in one bag that say the same but for their numbers: the first of them, how
    many there are, and when the first and the last were, since the bag's start."""

    bag: str
    policy: int
    first: Incident
    num_times: int
    first_s: float
    last_s: float


@dataclass(frozen=True)
class Overview:
    """Of every bag its row, ``drawn`` those with charts, the first kinds of incidents and how many there are, and the
    latencies that were assumed (None: recorded ones)."""

    rows: tuple[BagRow, ...]
    drawn: tuple[Bag, ...]
    incidents: tuple[IncidentGroup, ...]
    num_incidents: int
    assumed_ms: frozenset[float | None]


def moments_of(session: ReplaySession) -> tuple[NumberedMoment, ...]:
    """The worst moments of one policy after the other, numbered from 1."""
    found = [(i, moment) for i, summary in enumerate(session.summaries) for moment in summary.worst]
    return tuple(NumberedMoment(number, *one) for number, one in enumerate(found, 1))


def look_over(session: ReplaySession, moments: Sequence[NumberedMoment], max_drawn: int, max_groups: int) -> Overview:
    """One bag after the other in their order, named by what tells them apart; where there are more than ``max_drawn``,
    those with the largest error are drawn, the largest first."""
    rows: list[BagRow] = []
    groups: list[IncidentGroup] = []
    num_groups, assumed_ms = 0, set()
    for bag in _bags_of(session, moments):
        rows.append(BagRow.of(bag))
        found = _grouped_incidents(bag)
        groups += found[: max_groups - len(groups)]
        num_groups += len(found)
        assumed_ms.add(bag.first.assumed_latency_ms)
    drawn = range(len(rows))
    if len(rows) > max_drawn:
        drawn = sorted(drawn, key=lambda i: -rows[i].largest_error)[:max_drawn]
    bags = tuple(_bag(session, moments, i, rows[i].name) for i in drawn)
    return Overview(tuple(rows), bags, tuple(groups), num_groups, frozenset(assumed_ms))


def _bags_of(session: ReplaySession, moments: Sequence[NumberedMoment]) -> Iterator[Bag]:
    for i, name in enumerate(short_names(list(session.summaries[0].bags))):
        yield _bag(session, moments, i, name)


def _bag(session: ReplaySession, moments: Sequence[NumberedMoment], index: int, name: str) -> Bag:
    replays = tuple(of_policy[index] for of_policy in session.replays)
    own = tuple(one for one in moments if one.moment.bag == replays[0].bag)
    return Bag(name, replays, own, wanted_mode(session.config.driver))


def short_names(paths: list[str]) -> list[str]:
    """The last part of each path; where two agree in that, what follows the folder all have in common."""
    last = [Path(path).name or path for path in paths]
    if len(set(last)) == len(last) or len({Path(path).is_absolute() for path in paths}) > 1:
        return last
    common = os.path.commonpath([str(Path(path).parent) for path in paths])
    return [os.path.relpath(path, common or ".") for path in paths]


def _grouped_incidents(bag: Bag) -> list[IncidentGroup]:
    """Every incident of a bag, the same ones together, in the order of their first time."""
    groups: list[IncidentGroup] = []
    for i, replay in enumerate(bag.replays):
        alike: dict[tuple[str, str, str], list[Incident]] = {}
        for event in replay.events:
            alike.setdefault((event.kind, event.joint, without_numbers(event.line)), []).append(event)
        for events in alike.values():
            first_s, last_s = (bag.first.seconds(event.time_ns) for event in (events[0], events[-1]))
            num_times = sum(event.num_times for event in events)
            groups.append(IncidentGroup(bag.name, i, events[0], num_times, first_s, last_s))
    return sorted(groups, key=lambda group: group.first.time_ns)
