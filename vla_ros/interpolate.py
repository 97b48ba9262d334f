"""Joint positions between two samples, linearly."""

from __future__ import annotations

import math

import numpy as np

TURN = 2 * math.pi


def between(early: np.ndarray, late: np.ndarray, weight: np.ndarray | float, turns: np.ndarray | bool) -> np.ndarray:
    """From ``early`` at ``weight`` 0 to ``late`` at 1; arguments are broadcast, joints last.

    A joint that ``turns`` without end and whose two positions are more than half a turn apart goes the short way, and
    is given near the sample that is nearer in time: from 3.1 to -3.1 over pi, not over 0.
    """
    step = late - early
    passed = np.where(turns & (np.abs(step) > TURN / 2), TURN * np.round(step / TURN), 0.0)
    if not passed.any():
        return early + weight * step
    return early + weight * (step - passed) + np.where(np.asarray(weight) < 0.5, 0.0, passed)
