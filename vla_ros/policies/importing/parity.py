"""A folder with a checkpoint of LeRobot's or openpi's layout and recorded cases of it, each compared by its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from vla_ros.policies.importing.case import read_lerobot_case
from vla_ros.policies.importing.difference import Difference
from vla_ros.policies.importing.lerobot import CONFIG_FILE, read_lerobot
from vla_ros.policies.importing.openpi import ASSETS, read_openpi
from vla_ros.strict import quoted

CHECKPOINTS, CASES = f"checkpoint*/{CONFIG_FILE}", "case*.safetensors"
# What compares a case of each type: takes the checkpoint, the case and the folder, which may hold a tokenizer and more.
COMPARE = {
    "pi0": "vla_ros.policies.pi0.case:compare_lerobot",
    "pi05": "vla_ros.policies.pi0.case:compare_lerobot",
    "openpi": "vla_ros.policies.pi0.case:compare_openpi",
    "smolvla": "vla_ros.policies.smolvla.case:compare_lerobot",
    "act": "vla_ros.policies.act.case:compare_lerobot",
}


def is_case_dir(folder: Path) -> bool:
    """Whether it has a checkpoint of these layouts."""
    return any(folder.glob(CHECKPOINTS))


def compare_case_dir(folder: Path) -> Mapping[str, Difference]:
    """The differences of every output of every case, by checkpoint, case and output. Raises ValueError, in one line,
    for a folder without a case, a type that nobody compares, and whatever an import refuses."""
    cases = sorted(folder.glob(CASES))
    if not cases:
        raise ValueError(f"{folder} has no {CASES}; give a folder with a checkpoint and a recorded case")
    differences: dict[str, Difference] = {}
    rename: Mapping[str, str] = {}
    for config in sorted(folder.glob(CHECKPOINTS)):
        path = config.parent
        checkpoint: Any = read_openpi(path, None) if (path / ASSETS).is_dir() else read_lerobot(path)
        kind = getattr(checkpoint, "type", "openpi")
        rename = getattr(checkpoint, "rename", {}) or rename  # LeRobot 0.3's says none; the observation is the same
        if kind not in COMPARE:
            got = f"{path}: a case of type '{quoted(kind)}' can't be compared"
            raise ValueError(f"{got}; expected one of {', '.join(COMPARE)}")
        for case in cases:
            found = _load(COMPARE[kind])(checkpoint, read_lerobot_case(case, rename), folder)
            differences |= {f"{path.name}/{case.stem}/{name}": each for name, each in found.items()}
    return differences


def _load(name: str) -> Callable[..., Mapping[str, Difference]]:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
