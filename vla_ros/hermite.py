"""The cubic through timed set points, as trajectory controllers interpolate."""

from __future__ import annotations

import numpy as np


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
