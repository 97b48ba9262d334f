"""Means of what is known: numbers that are missing are NaN and left out; a mean of none is NaN, without a warning."""

from __future__ import annotations

import numpy as np


def mean_of_known(values: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The mean over ``axis``, all axes by default, without what is NaN."""
    is_known = np.isfinite(values)
    total = np.where(is_known, values, 0.0).sum(axis=axis)
    return np.asarray(ratio(total, is_known.sum(axis=axis)))


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """``total / count``, NaN where nothing was counted."""
    total = np.asarray(total, np.float64)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=np.asarray(count) > 0)
