"""Distributions of the last values of a quantity."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

NUM_VALUES = 3000


@dataclass(frozen=True)
class Summary:
    """Over the last ``count`` values."""

    count: int
    mean: float
    p50: float
    p99: float
    maximum: float


class Distribution:
    """The last ``NUM_VALUES`` values; one writer, any number of readers."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=NUM_VALUES)

    def add(self, value: float) -> None:
        self._values.append(value)

    def summary(self) -> Summary | None:
        """None before the first value."""
        values = np.array(self._values.copy())
        if not len(values):
            return None
        p50, p99 = np.percentile(values, (50, 99))
        return Summary(len(values), float(values.mean()), float(p50), float(p99), float(values.max()))
