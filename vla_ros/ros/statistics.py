"""How a quantity was distributed over the last seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_ros.ros.clock import steady_now_ns
from vla_ros.units import NS_PER_S

NUM_VALUES = 3000
WINDOW_S = 10.0
STAGES = (
    "stamp_age", "preprocessing", "link", "queue",
    "copy_in", "prefix", "suffix", "graph", "copy_out", "inference",
    "switch",
)  # fmt: skip
"""What the time of one chunk is made of; on a GPU prefix and suffix are one ``graph``."""


@dataclass(frozen=True)
class DistributionSummary:
    """Of ``count`` values."""

    count: int
    mean: float
    p50: float
    p99: float
    maximum: float


class Distribution:
    """The values of the last ``WINDOW_S``, at most ``NUM_VALUES``; one writer, any number of readers."""

    def __init__(self) -> None:
        self._values: deque[tuple[int, float]] = deque(maxlen=NUM_VALUES)

    def add(self, value: float) -> None:
        self._values.append((steady_now_ns(), value))

    def summary(self) -> DistributionSummary | None:
        """None without any value."""
        oldest_ns = steady_now_ns() - round(WINDOW_S * NS_PER_S)
        values = np.array([value for stamp_ns, value in self._values.copy() if stamp_ns >= oldest_ns])
        if not len(values):
            return None
        p50, p99 = np.percentile(values, (50, 99))
        return DistributionSummary(len(values), float(values.mean()), float(p50), float(p99), float(values.max()))
