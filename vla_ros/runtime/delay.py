"""How long the policy takes to answer, counted in actions."""

from __future__ import annotations

import math
from collections import deque

from vla_ros.types import ActionChunk
from vla_ros.units import NS_PER_S

NUM_REMEMBERED = 10


def count_consumed(chunk: ActionChunk, switch_ns: int) -> int:
    """How many of a chunk's first actions the robot has done, or is on its way to, when the chunk is switched to.

    With ``x = (switch - t_obs) / chunk_dt - offset``, ``floor(x) + 1`` are past and the one being approached is frozen
    too: ``floor(x) + 2``, at least 0.
    """
    x = (switch_ns - chunk.stamp_ns) / NS_PER_S / chunk.chunk_dt_s - chunk.offset
    return max(0, math.floor(x + 1e-9) + 2)


class DelayEstimate:
    """The largest of the last ten delays; the first chunk after a start does not count, it is re-based."""

    def __init__(self) -> None:
        self._delays: deque[int] = deque(maxlen=NUM_REMEMBERED)
        self.num_late = 0

    @property
    def predicted(self) -> int | None:
        """In actions; None before the first delay is known."""
        return max(self._delays, default=None)

    def add(self, delay: int) -> int:
        """Remember a delay; returns how much longer than predicted it was, 0 or more, and counts it if so."""
        late = max(0, delay - self.predicted) if self.predicted is not None else 0
        self.num_late += late > 0
        self._delays.append(delay)
        return late
