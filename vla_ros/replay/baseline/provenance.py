"""What a stored result was made of: the policy's files, the bags, the robot and the settings."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vla_ros.policies.files import has_poses
from vla_ros.replay.episodes import EpisodePath, recorded_files
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import TeleopConfig
from vla_ros.strict import config_to_dict

Setting = str | int | float | bool | None
NOT_REPLAYED = (
    *("stamp", "lead_periods", "max_tracking_error", "tracking"),
    *("min_change", "max_rate_hz", "max_effort", "rate_hz"),
)
"""Values of a robot without effect in a replay, whose commands nobody follows."""


@dataclass(frozen=True)
class Provenance:
    """SHA-256 of each file of the policy directory by its path inside it, and of each bag by its name (``bag_name``);
    every setting and value of the robot that a replay depends on by its dotted name; the policy's cameras in order.

    ``machine`` is what numbers are computed by: where it is the same, the same computation gives the same bits.
    """

    policy_files: Mapping[str, str]
    bags: Mapping[str, str]
    settings: Mapping[str, Setting]
    camera_names: tuple[str, ...]
    machine: str


def provenance(
    policy_dir: Path,
    bags: Sequence[str | Path],
    robot: RobotConfig,
    camera_names: Sequence[str],
    settings: Mapping[str, Any],
    machine: str,
) -> Provenance:
    """Read and hash everything; ``settings`` may be nested, ``machine`` is that of ``machine_name``.

    Raises ValueError for a bag that isn't there, and for two of one name.
    """
    return Provenance(
        policy_files=policy_files(policy_dir),
        bags={name: bag_digest(bag) for name, bag in bags_by_name(bags).items()},
        settings=replayed_values(settings, robot, has_poses(policy_dir)),
        camera_names=tuple(camera_names),
        machine=machine,
    )


def bags_by_name(bags: Sequence[str | Path]) -> dict[str, str | Path]:
    """Each bag by its ``bag_name``. Raises ValueError for two of one name."""
    found: dict[str, str | Path] = {}
    for bag in bags:
        name = bag_name(bag)
        if name in found:
            raise ValueError(f"two bags are called '{name}'; bags are told apart by name: rename one")
        found[name] = bag
    return found


def bag_digest(bag: str | Path) -> str:
    """The SHA-256 of a bag's storage files, or of those that hold an episode. Raises ValueError where there is
    none."""
    files = recorded_files(Path(bag))
    if EpisodePath.of(Path(bag)) is None:
        return _digest(files)
    # Several episodes lie in one file, which is read once.
    together = "".join(_digest_as(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return hashlib.sha256(together.encode()).hexdigest()


def replayed_values(settings: Mapping[str, Any], robot: RobotConfig, has_poses: bool) -> dict[str, Setting]:
    """Every one of ``settings`` (they may be nested) and every value of the robot that a replay depends on, by its
    dotted name; the robot's links only for a policy that ``has_poses``."""
    values = _flat("", {**settings, "robot": _values(robot, has_poses)})
    return {name: value for name, value in values if name.rpartition(".")[2] not in NOT_REPLAYED}


def _values(robot: RobotConfig, has_poses: bool) -> dict[str, Any]:
    """A robot as its file may be written at its shortest: what older baselines say of it still is the same. Its links
    are for a policy that ``has_poses``."""
    values = config_to_dict(robot)
    if len(robot.joint_states) == 1:
        (values["joint_states"],) = values["joint_states"]
    for leader in values["teleop"]:
        if not leader["joints"]:
            del leader["joints"]
    if len(robot.teleop) == 1:
        (values["teleop"],) = values["teleop"]
    for joint in values["joints"]:
        if not joint["fixed"]:
            del joint["fixed"]
    if robot.kinematics is not None:
        values["kinematics"]["urdf"] = _digest((Path(robot.kinematics.urdf),))
    left_out = {
        "kinematics": not (has_poses and robot.kinematics is not None),
        "teleop": robot.teleop == (TeleopConfig(),),
    }
    return {key: value for key, value in values.items() if not left_out.get(key, False)}


def machine_name(device: str, num_threads: int) -> str:
    """The CPU, the libraries that compute, the policy's device and the threads it has."""
    libraries = (f"{name} {version(name)}" for name in ("torch", "numpy"))
    return ", ".join((platform.machine(), _cpu_model(), *libraries, device, f"{num_threads} threads"))


def _cpu_model() -> str:
    """As Linux names it, with family, model and stepping: a name like "AMD EPYC" stands for several generations, which
    round differently. Empty on a system or a CPU where it doesn't."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [said[key] for key in ("cpu family", "model", "stepping") if key in said]
    return " ".join((said.get("model name", ""), "-".join(numbers))).strip()


def bag_name(bag: str | Path) -> str:
    """How a baseline calls a bag: by the last part of its path, so that it holds on another machine."""
    return Path(bag).resolve().name


def policy_files(policy_dir: Path) -> dict[str, str]:
    """The SHA-256 of all files but hidden ones, which tools leave behind."""
    paths = {path.relative_to(policy_dir): path for path in sorted(policy_dir.rglob("*")) if path.is_file()}
    return {
        inside.as_posix(): _digest((path,))
        for inside, path in paths.items()
        if not any(part.startswith(".") for part in inside.parts)
    }


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _digest_as(path: Path, num_bytes: int, changed_ns: int) -> str:
    """Of a file, as long as it is that large and of that time."""
    return _digest((path,))


def _flat(where: str, value: Any) -> Iterator[tuple[str, Setting]]:
    """Every leaf by its dotted name; items of a list by their own name, where they have one."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        names = (item.get("name") if isinstance(item, Mapping) else None for item in value)
        items = [(name or str(i), item) for i, (name, item) in enumerate(zip(names, value, strict=True))]
    else:
        yield where, value
        return
    for name, item in items:
        yield from _flat(f"{where}.{name}" if where else name, item)
