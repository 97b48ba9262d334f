"""Which releases a run was made with: ``versions.json``."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vla_ros.strict import explained, parse_json, quoted, read_text

VERSIONS = "versions.json"
PACKAGES = ("vla_ros", "torch", "transformers", "tokenizers", "numpy", "opencv-python-headless", "hydra-core")


def record_versions(run_dir: Path) -> tuple[str, ...]:
    """Write the present ones into a run's folder; returns a line for each that the run began with otherwise.

    Raises ValueError for a file there that can't be read.
    """
    path = run_dir / VERSIONS
    now = {"python": platform.python_version(), **{name: release_of(name) for name in PACKAGES}}
    then = now
    if path.exists():
        with explained(f"{path}: ", OSError, TypeError, ValueError, after="; delete it"):
            then = dict(parse_json(read_text(path)))
    write_whole(path, json.dumps(now, indent=1) + "\n")
    changed = (name for name in now if then.get(name) != now[name])
    return tuple(f"{name} was {quoted(str(then.get(name)))} and is {now[name]}" for name in changed)


def write_whole(path: Path, text: str) -> None:
    """In one move, so that a kill at any moment leaves a whole file."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def release_of(name: str) -> str:
    """The installed one of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
