"""Whether the resident memory of processes grows, out of samples over their lives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NUM_AVERAGED = 5
"""So many samples at either end are taken together, by their median."""


class ResidentMemory:
    """Samples of processes by name; one that was started again, with another pid, begins a life of its own."""

    def __init__(self) -> None:
        self._lives: dict[str, dict[int, list[tuple[float, int]]]] = {}

    def add(self, name: str, pid: int, now_s: float, num_bytes: int) -> None:
        """What process ``pid`` has at ``now_s``."""
        self._lives.setdefault(name, {}).setdefault(pid, []).append((now_s, num_bytes))

    def growth_percent(self, name: str, warm_up_s: float) -> float | None:
        """The largest growth of any life of ``name``; None where none was seen often enough after its warm-up."""
        grown = [_growth_percent(life, warm_up_s) for life in self._lives.get(name, {}).values()]
        return max((percent for percent in grown if percent is not None), default=None)


def resident_bytes(pid: int) -> int:
    """What process ``pid`` has in memory now."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"process {pid} has no memory any more; expected it to run")
    return 1024 * int(found[1])


def _growth_percent(life: Sequence[tuple[float, int]], warm_up_s: float) -> float | None:
    """From the first samples after ``warm_up_s`` to the last, which share none."""
    warm = [num_bytes for now_s, num_bytes in life if now_s - life[0][0] >= warm_up_s]
    num = min(NUM_AVERAGED, len(warm) // 2)
    if not num:
        return None
    before, after = np.median(warm[:num]), np.median(warm[-num:])
    return float(100 * (after / before - 1))
