"""The bags, worst moments and incidents of a session, in the order in which its report shows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
class IncidentGroup:
    """Incidents of one policy (an index) in one bag that say the same but for their numbers."""

    bag: Bag
    policy: int
    incidents: Sequence[Incident]

    @property
    def first(self) -> Incident:
        return self.incidents[0]

    def seconds(self, index: int) -> float:
        """When one of them was, since the start of the bag."""
        return self.bag.first.seconds(self.incidents[index].time_ns)


def moments_of(session: ReplaySession) -> tuple[NumberedMoment, ...]:
    """The worst moments of one policy after the other, numbered from 1."""
    found = [(i, moment) for i, summary in enumerate(session.summaries) for moment in summary.worst]
    return tuple(NumberedMoment(number, *one) for number, one in enumerate(found, 1))


def bags_of(session: ReplaySession, moments: Sequence[NumberedMoment]) -> tuple[Bag, ...]:
    """The bags in their order, named by what tells them apart."""
    names = short_names([replay.bag for replay in session.replays[0]])
    mode = wanted_mode(session.config.driver)
    return tuple(
        Bag(name, replays, tuple(one for one in moments if one.moment.bag == replays[0].bag), mode)
        for name, replays in zip(names, zip(*session.replays, strict=True), strict=True)
    )


def short_names(paths: list[str]) -> list[str]:
    """The last part of each path; where two agree in that, what follows the folder all have in common."""
    last = [Path(path).name or path for path in paths]
    if len(set(last)) == len(last) or len({Path(path).is_absolute() for path in paths}) > 1:
        return last
    common = os.path.commonpath([str(Path(path).parent) for path in paths])
    return [os.path.relpath(path, common or ".") for path in paths]


def grouped_incidents(bag: Bag) -> list[IncidentGroup]:
    """Every incident of a bag, the same ones together, in the order of their first time."""
    groups: list[IncidentGroup] = []
    for i, replay in enumerate(bag.replays):
        alike: dict[tuple[str, str, str], list[Incident]] = {}
        for event in replay.events:
            alike.setdefault((event.kind, event.joint, without_numbers(event.line)), []).append(event)
        groups += [IncidentGroup(bag, i, events) for events in alike.values()]
    return sorted(groups, key=lambda group: group.first.time_ns)
