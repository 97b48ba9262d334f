"""How far a recorded output is from what is computed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """``largest`` absolute difference of an output, and how large it may be."""

    largest: float
    allowed: float

    @property
    def is_beyond(self) -> bool:
        return self.largest > self.allowed


def difference(got: Any, expected: Any, allowed: float) -> Difference:
    """Infinite for another shape; what need not be numbers (tokens, masks) is allowed 0."""
    ours, theirs = np.asarray(got), np.asarray(expected)
    if ours.shape != theirs.shape:
        return Difference(float("inf"), allowed)
    gap = np.nan_to_num(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)), nan=np.inf)
    return Difference(float(gap.max(initial=0.0)), allowed)
