"""What the robot did, laid beside what a policy wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.replay.baseline.fingerprint import InputFingerprint
from vla_ros.replay.records import ReplayedChunk, Stretch
from vla_ros.replay.series import TimeSeries
from vla_ros.types import ActionChunk


@dataclass(frozen=True)
class KeptAnswer:
    """What a replay keeps of an answer: no image. ``header_ns`` is its observation's time."""

    header_ns: int
    asked_ns: int
    arrived_ns: int
    chunk: ActionChunk
    fingerprint: InputFingerprint


@dataclass(frozen=True)
class Recorded:
    """What the robot did: ``modes`` say who drove, ``episodes`` what for; ``commands`` are at their due times."""

    modes: tuple[Stretch, ...]
    episodes: tuple[Stretch, ...]
    commands: TimeSeries
    joints: TimeSeries

    def drivers(self, times_ns: np.ndarray) -> np.ndarray:
        """Who drove at each of ``times_ns``."""
        return np.array([mode.label for mode in self.modes])[_index_at(self.modes, times_ns)]

    def beside(self, answer: KeptAnswer) -> ReplayedChunk:
        """The chunk, and what was commanded and measured where its actions are due."""
        header_ns, chunk = answer.header_ns, answer.chunk
        due_ns = np.array([chunk.due_ns(k) for k in range(chunk.horizon)])
        driver, *due_drivers = self.drivers(np.array([header_ns, *due_ns])).tolist()
        episode = int(_index_at(self.episodes, header_ns))
        is_other = (due_ns > self.episodes[episode].end_ns) | (np.array(due_drivers) != driver)
        commanded, measured = (series.at(due_ns) for series in (self.commands, self.joints))
        commanded[is_other] = measured[is_other] = np.nan
        return ReplayedChunk(
            header_ns=header_ns,
            asked_ns=answer.asked_ns,
            arrived_ns=answer.arrived_ns,
            driver=driver,
            episode=episode,
            due_ns=due_ns,
            positions=chunk.positions,
            commanded=commanded,
            measured=measured,
            fingerprint=answer.fingerprint,
        )


def make_stretches(starts: Sequence[tuple[int, str]], end_ns: int) -> tuple[Stretch, ...]:
    """Each from its start up to the next one's."""
    ends = [start_ns for start_ns, _ in starts[1:]] + [end_ns]
    return tuple(Stretch(start_ns, end, label) for (start_ns, label), end in zip(starts, ends, strict=True))


def _index_at(stretches: Sequence[Stretch], times_ns: int | np.ndarray) -> np.ndarray:
    """Which of ``stretches`` holds each time; the first one what is before it."""
    starts_ns = [stretch.start_ns for stretch in stretches]
    return np.maximum(np.searchsorted(starts_ns, times_ns, side="right") - 1, 0)
