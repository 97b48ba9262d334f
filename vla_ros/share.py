"""Where the package's own files are: ``config/``, ``launch/`` and ``models/``, installed or in a checkout."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PREVIOUS = ".{}.previous"
"""The name of a folder that is being replaced."""


def share_dir() -> Path:
    """The folder that holds ``config/``, ``launch/`` and ``models/``.

    It is found from this file's own place, so it needs no environment variable: a source checkout is its own share
    folder; pip and colcon both put ``share/vla_ros`` under the prefix whose ``lib`` holds the Python package.
    Raises ValueError where the package was installed without its share files.
    """
    here = Path(__file__).resolve()
    for parent in here.parents:
        for candidate in (parent, parent / "share" / "vla_ros"):
            if (candidate / "package.xml").is_file() and (candidate / "config" / "robots").is_dir():
                return candidate
    raise ValueError(
        f"no share/vla_ros above {here.parent}: expected config/, launch/ and models/ there; install with "
        "'pip install .' or 'colcon build' (an editable install has no share folder)"
    )


def share_path(name: str) -> Path:
    """A file or folder of the package by its name below the share folder, such as ``config/robots/tabletop.yaml``.

    Raises ValueError where it doesn't exist.
    """
    path = share_dir() / name
    if not path.exists():
        raise ValueError(f"{path} does not exist; reinstall vla_ros or give a path of your own")
    return path


def robot_file(name: str) -> Path:
    """A robot file by its path, or a packaged one by its name. Raises ValueError where neither exists."""
    return _find(name, "config/robots", ".yaml", "robot")


def policy_dir(name: str) -> Path:
    """A policy directory by its path, or a packaged one by its name. Raises ValueError where neither exists."""
    return _find(name, "models", "", "policy")


def stand_in(folder: Path) -> Path:
    """The folder itself; where it was being replaced when that was interrupted between two names, the one before it."""
    before = folder.with_name(PREVIOUS.format(folder.name)) if folder.name else folder
    return before if not folder.exists() and before.is_dir() else folder


def _find(name: str, folder: str, suffix: str, what: str) -> Path:
    path = Path(name).expanduser()
    if stand_in(path).exists():
        return path
    if len(path.parts) == 1:
        with suppress(ValueError):
            return share_path(f"{folder}/{name}{suffix}")
    known = ", ".join(sorted(entry.stem for entry in share_path(folder).iterdir() if entry.suffix == suffix))
    raise ValueError(f"{what} '{name}' does not exist; give a path, or the name of a packaged one: {known}")
