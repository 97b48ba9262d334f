"""A time series that grows."""

from __future__ import annotations

from array import array

import numpy as np

from vla_ros.replay.records import Series


class History:
    """Rows of ``width`` numbers at increasing times; one not later than the newest is left out."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._times_ns = array("q")
        self._values = array("d")

    def add(self, time_ns: int, row: np.ndarray) -> None:
        if not self._times_ns or time_ns > self._times_ns[-1]:
            self._times_ns.append(time_ns)
            self._values.extend(row)

    def newest(self) -> np.ndarray | None:
        """The newest row ``[width]``."""
        return np.array(self._values[-self._width :]) if self._times_ns else None

    def series(self) -> Series:
        """All rows so far."""
        values = np.array(self._values, dtype=np.float64).reshape(-1, self._width)
        return Series(np.array(self._times_ns, dtype=np.int64), values)
