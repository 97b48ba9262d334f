"""What the limiter aimed at a moment ago: where a new path begins.

Never a command that a bound on jerk delays: a path that began there would lead to the next command in turn, and such a
loop with a delay in it swings for ever.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np


class _Aim(NamedTuple):
    stamp_ns: int
    positions: np.ndarray


class AimHistory:
    """The last ``size`` aims, oldest first."""

    def __init__(self, size: int) -> None:
        self._aims: deque[_Aim] = deque(maxlen=size)

    def add(self, stamp_ns: int, positions: np.ndarray) -> None:
        """Positions ``[num_joints]`` aimed at for ``stamp_ns``."""
        self._aims.append(_Aim(stamp_ns, positions))

    def at(self, t_ns: int) -> np.ndarray:
        """The positions ``[num_joints]`` aimed at for ``t_ns``, interpolated between those around it."""
        newer = self._aims[-1]
        for aim in reversed(self._aims):
            if aim.stamp_ns <= t_ns:
                if newer is aim:
                    return aim.positions
                weight = (t_ns - aim.stamp_ns) / (newer.stamp_ns - aim.stamp_ns)
                return aim.positions + weight * (newer.positions - aim.positions)
            newer = aim
        return newer.positions
