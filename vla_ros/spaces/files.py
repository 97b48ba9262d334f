"""Spaces as files, or packaged ones by their name: what a vector's numbers mean on a robot.

::

    state: [...]      # components, as data.state of a policy.yaml
    action: [...]
    cameras: [{key: base_0_rgb, camera: front}, ...]      # optional, and so is the next
    chunk_dt_s: 0.1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.robot import RobotConfig
from vla_ros.share import share_dir
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.kinematics import kinematics_of
from vla_ros.strict import explained, listed, parse_config, parse_yaml, quoted, read_text

PRESETS = "config/spaces"


@dataclass(frozen=True)
class SpaceFile:
    """A space as its file has it."""

    state: tuple[Mapping[str, Any], ...]
    action: tuple[Mapping[str, Any], ...]
    cameras: tuple[Mapping[str, Any], ...] = ()
    chunk_dt_s: float | None = None


def presets() -> tuple[str, ...]:
    """The names of the packaged spaces."""
    return tuple(sorted(path.stem for path in (share_dir() / PRESETS).glob("*.yaml")))


def read_space(name: str) -> SpaceFile:
    """A space by its path, or a packaged one by its name. Raises ValueError where there is none, or for what a space
    file can't say."""
    path = Path(name).expanduser()
    if not path.is_file():
        path = share_dir() / PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"--space {quoted(name)} is neither a file nor one of {listed(presets())}")
    with explained(f"{path}: ", OSError, ValueError):
        return parse_config(SpaceFile, parse_yaml(read_text(path)), "the space")


def joints_of(robot: RobotConfig) -> RobotJoints:
    """What a robot file says of joints, with its links where it has some."""
    turning = tuple(name for name, turns in zip(robot.joint_names, robot.turns, strict=True) if turns)
    kinematics = None if robot.kinematics is None else kinematics_of(robot)
    return RobotJoints(robot.joint_names, robot.joint_limits, continuous=turning, kinematics=kinematics)
