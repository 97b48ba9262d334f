"""What a subcommand comes to, and how its options and figures are checked and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The figures for ``--json``, and whether they are good enough."""

    figures: Any
    is_good: bool = True


def check_range(option: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Raises ValueError for a given value that lies outside."""
    if value is not None and not low <= value <= high:
        expected = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
        raise ValueError(f"{option} is {value:g}; expected {expected}")


def write_json(path: str | None, values: Any) -> None:
    """Write ``values`` as JSON to ``path``, if there is one. Raises ValueError where it cannot be written."""
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"--json {path}: {error.strerror or error}; give a file that can be written") from error
