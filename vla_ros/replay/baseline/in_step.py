"""Which column of a table moves as which column of another."""

from __future__ import annotations

import numpy as np

MIN_ROWS = 4
MIN_CORRELATION = 0.9999
MIN_MOTION = 1e-4


def moved_columns(got: np.ndarray, expected: np.ndarray) -> dict[int, int]:
    """The columns of ``got`` that have changed places, by what column of ``expected`` they are in step with."""
    return {j: source for j, source in enumerate(in_step(got, expected)) if source not in (None, j)}


def in_step(got: np.ndarray, expected: np.ndarray) -> list[int | None]:
    """For each column of ``got`` [num_rows, num_columns] the column of ``expected``, of the same shape, that it is in
    step with, up to an offset and a positive factor: its own where that is one of them, None where there is none.

    Rows where either is NaN are left out; it takes ``MIN_ROWS`` and some motion.
    """
    return [_partner(got[:, j], expected, j) for j in range(got.shape[1])]


def _partner(column: np.ndarray, expected: np.ndarray, own: int) -> int | None:
    correlations = np.array([_correlation(column, other) for other in expected.T])
    best = own if correlations[own] >= MIN_CORRELATION else int(correlations.argmax())
    return best if correlations[best] >= MIN_CORRELATION else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """-1, too, where it is not known."""
    is_known = np.isfinite(a) & np.isfinite(b)
    a, b = a[is_known], b[is_known]
    if len(a) < MIN_ROWS or min(a.std(), b.std()) < MIN_MOTION:
        return -1.0
    return float(np.corrcoef(a, b)[0, 1])
