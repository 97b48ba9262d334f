"""What each step of a run came to, one JSON object a line: ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_ros.strict import parse_json

METRICS = "metrics.jsonl"
_DIGITS = 6


class StepMetrics:
    """The file of a run's folder. A run that goes on from ``step`` forgets the lines of later steps, which it repeats;
    ``waited_s`` is how long the step that is under way has waited for its samples."""

    def __init__(self, run_dir: Path, step: int) -> None:
        path = run_dir / METRICS
        if path.exists():
            partial = path.with_name(f"{METRICS}.partial")
            with path.open(errors="replace") as old, partial.open("w") as new:
                new.writelines(line for line in old if _step_of(line) <= step)
            os.replace(partial, path)
        self._file = path.open("a", buffering=1)  # by line, so that a killed run has all its steps
        self._waited_s = 0.0

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside its ``with`` the step waits for data."""
        started = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - started

    def write(self, step: int, values: Mapping[str, Any], num_samples: int, seconds: float) -> None:
        """The line of ``step``, which took so long for so many samples."""
        rates = {"samples_per_s": num_samples / seconds, "waiting_share": self._waited_s / seconds}
        self._file.write(json.dumps({"step": step, **_rounded({**values, **rates})}) + "\n")
        self._waited_s = 0.0


def _step_of(line: str) -> float:
    """Infinite where the line was cut off."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


def _rounded(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
