"""Writing what a subcommand found for other programs to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(path: str | None, values: Any) -> None:
    """Write ``values`` as JSON to ``path``, if there is one. Raises ValueError where it cannot be written."""
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"--json {path}: {error.strerror or error}; give a file that can be written") from error
