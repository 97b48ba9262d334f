"""Between samples: joint positions linearly, set points by the cubic that trajectory controllers follow."""

from __future__ import annotations

import math

import numpy as np

TURN = 2 * math.pi


def whole_turns(step: np.ndarray, turns: np.ndarray | bool) -> np.ndarray:
    """What of ``step``, joints last, is whole turns of a joint that ``turns`` without end, and so is no motion."""
    return np.where(turns & (np.abs(step) > TURN / 2), TURN * np.round(step / TURN), 0.0)


def between(early: np.ndarray, late: np.ndarray, weight: np.ndarray | float, turns: np.ndarray | bool) -> np.ndarray:
    """From ``early`` at ``weight`` 0 to ``late`` at 1; arguments are broadcast, joints last.

    A joint that ``turns`` without end and whose two positions are more than half a turn apart goes the short way, and
    is given near the sample that is nearer in time: from 3.1 to -3.1 over pi, not over 0.
    """
    step = late - early
    passed = whole_turns(step, turns)
    if not passed.any():
        return early + weight * step
    return early + weight * (step - passed) + np.where(np.asarray(weight) < 0.5, 0.0, passed)


def hermite_at(
    t_s: float, times_s: np.ndarray, positions: np.ndarray, velocities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity at ``t_s`` on the cubic Hermite curve through ``positions`` with ``velocities`` (1/s), both
    ``[num_points, ...]``, at ``times_s``: at least two points, and ``t_s`` lies between the first and the last.
    """
    after = min(max(int(np.searchsorted(times_s, t_s)), 1), len(times_s) - 1)
    duration_s = times_s[after] - times_s[after - 1]
    x = (t_s - times_s[after - 1]) / duration_s
    (p0, p1), (v0, v1) = positions[after - 1 : after + 1], velocities[after - 1 : after + 1]
    m0, m1 = v0 * duration_s, v1 * duration_s
    c2, c3 = 3 * (p1 - p0) - 2 * m0 - m1, 2 * (p0 - p1) + m0 + m1
    return p0 + x * (m0 + x * (c2 + x * c3)), (m0 + x * (2 * c2 + 3 * x * c3)) / duration_s
