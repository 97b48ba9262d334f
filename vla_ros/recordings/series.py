"""Values over time, as a bag has them, and means of what is known of them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from vla_ros.interpolate import between
from vla_ros.units import NS_PER_S

MAX_GAP_S = 0.5
"""Between two samples further apart nothing is known of what was commanded or measured."""


@dataclass(frozen=True)
class TimeSeries:
    """``values`` float64 ``[num_samples]`` or ``[num_samples, num_joints]`` at increasing ``times_ns``
    ``[num_samples]`` int64."""

    times_ns: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.times_ns)

    def at(self, times_ns: np.ndarray, max_gap_s: float = MAX_GAP_S, turns: np.ndarray | bool = True) -> np.ndarray:
        """Linear between samples, ``[num_times, num_joints]``; NaN outside, and between samples further apart than
        ``max_gap_s``. ``turns`` says which joints turn without end; any may where nobody knows."""
        found = np.full((len(times_ns), self.values.shape[1]), np.nan)
        if len(self) < 2:
            return found
        after = np.clip(np.searchsorted(self.times_ns, times_ns), 1, len(self) - 1)
        before_ns, after_ns = self.times_ns[after - 1], self.times_ns[after]
        is_inside = (times_ns >= self.times_ns[0]) & (times_ns <= self.times_ns[-1])
        is_inside &= (after_ns - before_ns) <= max_gap_s * NS_PER_S
        weight = ((times_ns - before_ns) / np.maximum(after_ns - before_ns, 1))[:, None]
        found[is_inside] = between(self.values[after - 1], self.values[after], weight, turns)[is_inside]
        return found

    def broken_at_gaps(self, max_gap_s: float = MAX_GAP_S) -> TimeSeries:
        """The same with a NaN in each gap, so that no line is drawn across it."""
        gaps = np.flatnonzero(np.diff(self.times_ns) > max_gap_s * NS_PER_S) + 1
        times_ns = np.insert(self.times_ns, gaps, self.times_ns[gaps] - 1)
        return TimeSeries(times_ns, np.insert(self.values, gaps, np.nan, axis=0))

    def column(self, joint: int) -> TimeSeries:
        """One joint's values alone."""
        return TimeSeries(self.times_ns, self.values[:, joint])

    def between(self, start_ns: float, end_ns: float) -> TimeSeries:
        """The samples from ``start_ns`` to ``end_ns``."""
        is_inside = (self.times_ns >= start_ns) & (self.times_ns <= end_ns)
        return TimeSeries(self.times_ns[is_inside], self.values[is_inside])


def are_later(times_ns: np.ndarray) -> np.ndarray:
    """Which of ``times_ns`` ``[num_times]`` are later than all before them, bool ``[num_times]``."""
    is_later = np.ones(len(times_ns), bool)
    is_later[1:] = times_ns[1:] > np.maximum.accumulate(times_ns)[:-1]
    return is_later


def mean_of_known(values: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The mean over ``axis``, all axes by default, without what is NaN; NaN, and no warning, where all is."""
    is_known = np.isfinite(values)
    total = np.where(is_known, values, 0.0).sum(axis=axis)
    return np.asarray(ratio(total, is_known.sum(axis=axis)))


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``total / count``, NaN where nothing was counted."""
    total = np.asarray(total, np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=np.asarray(count) > 0)


class GrowingSeries:
    """Rows of ``width`` numbers at increasing times; one not later than the newest is left out."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._times_ns = array("q")
        self._values = array("d")

    def add(self, time_ns: int, row: np.ndarray) -> bool:
        """Returns whether it is in."""
        is_later = not self._times_ns or time_ns > self._times_ns[-1]
        if is_later:
            self._times_ns.append(time_ns)
            self._values.extend(row)
        return is_later

    @property
    def first_ns(self) -> int | None:
        """When the first is."""
        return self._times_ns[0] if self._times_ns else None

    def newest(self) -> np.ndarray | None:
        """The newest row ``[width]``."""
        return np.array(self._values[-self._width :]) if self._times_ns else None

    def series(self) -> TimeSeries:
        """All rows so far."""
        values = np.array(self._values, dtype=np.float64).reshape(-1, self._width)
        return TimeSeries(np.array(self._times_ns, dtype=np.int64), values)
