"""The LeRobot that is installed, if there is one."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

HOW = "install the extra lerobot: Python 3.12 or newer, pip install 'vla_ros[lerobot]'"


def require_lerobot() -> str:
    """The release that is installed; raises ValueError where none is."""
    if find_spec("lerobot") is None:
        raise ValueError(f"LeRobot is not installed here; {HOW}")
    return metadata.version("lerobot")
