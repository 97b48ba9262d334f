"""What the robot did, laid beside what a policy wanted."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from vla_ros.replay.baseline.fingerprint import InputFingerprint
from vla_ros.replay.records import ReplayedChunk, Series, Span
from vla_ros.types import ActionChunk

MAX_GAP_S = 0.5
"""Between two samples further apart nothing is known of what was commanded or measured."""


@dataclass(frozen=True)
class KeptAnswer:
    """What a replay keeps of an answer: no image. ``header_ns`` is its observation's time."""

    header_ns: int
    asked_ns: int
    arrived_ns: int
    chunk: ActionChunk
    fingerprint: InputFingerprint


class Beside:
    """Puts beside a chunk what the robot did."""

    def __init__(self, modes: tuple[Span, ...], episodes: tuple[Span, ...], recorded: Series, joints: Series) -> None:
        self._modes, self._episodes, self._recorded, self._joints = modes, episodes, recorded, joints
        self._mode_starts = [span.start_ns for span in modes]
        self._episode_starts = [span.start_ns for span in episodes]

    def driver(self, time_ns: int) -> str:
        return self._modes[max(0, bisect_right(self._mode_starts, time_ns) - 1)].label

    def chunk(self, answer: KeptAnswer) -> ReplayedChunk:
        header_ns = answer.header_ns
        due_ns = np.array([answer.chunk.due_ns(k) for k in range(answer.chunk.horizon)])
        driver = self.driver(header_ns)
        episode = max(0, bisect_right(self._episode_starts, header_ns) - 1)
        is_other = np.array([t > self._episodes[episode].end_ns or self.driver(int(t)) != driver for t in due_ns])
        commanded, measured = (series.at(due_ns, MAX_GAP_S) for series in (self._recorded, self._joints))
        commanded[is_other] = measured[is_other] = np.nan
        return ReplayedChunk(
            header_ns=header_ns,
            asked_ns=answer.asked_ns,
            arrived_ns=answer.arrived_ns,
            driver=driver,
            episode=episode,
            due_ns=due_ns,
            positions=answer.chunk.positions,
            commanded=commanded,
            measured=measured,
            fingerprint=answer.fingerprint,
        )


def make_spans(starts: list[tuple[int, str]], end_ns: int) -> tuple[Span, ...]:
    ends = [start_ns for start_ns, _ in starts[1:]] + [end_ns]
    return tuple(Span(start_ns, end, label) for (start_ns, label), end in zip(starts, ends, strict=True))
