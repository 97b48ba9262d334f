"""Where the joints were to be a moment ago: what the limiter aimed at, and what it commanded."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np


class _Entry(NamedTuple):
    stamp_ns: int
    positions: np.ndarray


class PositionHistory:
    """The last ``size`` positions with their times, oldest first."""

    def __init__(self, size: int) -> None:
        self._entries: deque[_Entry] = deque(maxlen=size)

    def restart(self, stamp_ns: int, positions: np.ndarray) -> None:
        """Forget what was before ``positions`` ``[num_joints]`` at ``stamp_ns``."""
        self._entries.clear()
        self.add(stamp_ns, positions)

    def add(self, stamp_ns: int, positions: np.ndarray) -> None:
        """Positions ``[num_joints]`` for ``stamp_ns``."""
        self._entries.append(_Entry(stamp_ns, positions))

    def at(self, t_ns: int) -> np.ndarray:
        """The positions ``[num_joints]`` for ``t_ns``, interpolated between those around it."""
        newer = self._entries[-1]
        for entry in reversed(self._entries):
            if entry.stamp_ns <= t_ns:
                if newer is entry:
                    return entry.positions
                weight = (t_ns - entry.stamp_ns) / (newer.stamp_ns - entry.stamp_ns)
                return entry.positions + weight * (newer.positions - entry.positions)
            newer = entry
        return newer.positions
