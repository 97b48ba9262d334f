"""What was measured or commanded over time, and by whom."""

from __future__ import annotations

import numpy as np

from vla_ros.units import NS_PER_S


class Series:
    """Rows at increasing times, as they come; one not later than the newest is left out."""

    def __init__(self) -> None:
        self.times_ns: list[int] = []
        self.rows: list[np.ndarray] = []
        self.drivers: list[str] = []

    def add(self, time_ns: int, row: np.ndarray, driver: str = "") -> None:
        if not self.times_ns or time_ns > self.times_ns[-1]:
            self.times_ns.append(time_ns)
            self.rows.append(row)
            self.drivers.append(driver)


class Rows:
    """A whole ``Series`` to interpolate in; between rows further apart than ``max_gap_s`` nothing is known."""

    def __init__(self, series: Series, max_gap_s: float) -> None:
        self._times_ns = np.array(series.times_ns, np.int64)
        self._rows = np.array(series.rows)
        self._drivers = np.array(series.drivers)
        self._max_gap_ns = max_gap_s * NS_PER_S

    def at(self, times_ns: np.ndarray) -> np.ndarray | None:
        """``[num_times, width]`` at increasing times; None before the first row, behind the last, and across a gap."""
        if not len(self._times_ns) or times_ns[0] < self._times_ns[0] or times_ns[-1] > self._times_ns[-1]:
            return None
        part = self._around(times_ns[0], times_ns)
        known_ns = self._times_ns[part]
        if len(known_ns) > 1 and np.diff(known_ns).max() > self._max_gap_ns:
            return None
        # Relative to the first of them: a float64 holds an absolute time of today only to 256 ns.
        asked, known = (times_ns - known_ns[0]).astype(float), (known_ns - known_ns[0]).astype(float)
        return np.stack([np.interp(asked, known, column) for column in self._rows[part].T], -1)

    def drivers(self, start_ns: int, times_ns: np.ndarray) -> set[str]:
        """Who gave the rows from ``start_ns`` on and all that ``at(times_ns)`` looks at."""
        return {str(driver) for driver in np.unique(self._drivers[self._around(start_ns, times_ns)])}

    def _around(self, start_ns: int, times_ns: np.ndarray) -> slice:
        first = np.searchsorted(self._times_ns, times_ns[0], "right") - 1
        last = np.searchsorted(self._times_ns, times_ns[-1], "left")
        return slice(min(first, np.searchsorted(self._times_ns, start_ns, "left")), last + 1)
