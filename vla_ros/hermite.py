"""The cubic between two timed set points, as trajectory controllers interpolate."""

from __future__ import annotations

import numpy as np


def hermite(
    x: float, duration_s: float, start: tuple[np.ndarray, np.ndarray], end: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity at the part ``x`` (0 to 1) of the way through a cubic Hermite segment.

    ``start`` and ``end`` are position and velocity (1/s) at its ends, all of one shape, the result's.
    """
    (p0, v0), (p1, v1) = start, end
    m0, m1 = v0 * duration_s, v1 * duration_s
    c2, c3 = 3 * (p1 - p0) - 2 * m0 - m1, 2 * (p0 - p1) + m0 + m1
    return p0 + x * (m0 + x * (c2 + x * c3)), (m0 + x * (2 * c2 + 3 * x * c3)) / duration_s
