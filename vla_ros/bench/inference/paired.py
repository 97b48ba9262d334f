"""Times several things in turn, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

NUM_WARM_UP_ROUNDS = 1


def measure_interleaved(
    contenders: Mapping[str, Callable[[], object]], num_rounds: int, device: torch.device, num_runs: int = 2
) -> dict[str, np.ndarray]:
    """Milliseconds [num_rounds] of each contender, which is finished when the device is.

    Every round takes each of them in turn, and who goes first changes from round to round. Each has ``num_runs`` and
    the last counts, as in a process that does nothing else: the first pays for memory that the one before gave back.
    """
    names = list(contenders)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for i in range(NUM_WARM_UP_ROUNDS + num_rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            elapsed_ms = _time_ms(contenders[name], device, num_runs)
            if i >= NUM_WARM_UP_ROUNDS:
                times_ms[name].append(elapsed_ms)
    return {name: np.array(values) for name, values in times_ms.items()}


def paired_ratio(other_ms: np.ndarray, ours_ms: np.ndarray) -> float:
    """How many times as long the other takes: the median over the rounds."""
    return float(np.median(other_ms / ours_ms))


def _time_ms(run: Callable[[], object], device: torch.device, num_runs: int) -> float:
    for _ in range(num_runs):
        start_s = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start_s)
