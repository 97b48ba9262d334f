"""The settings of a run by name, and which of them may change while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.strict import config_to_dict, explained, parse_json, read_text
from vla_ros.training.config import TrainConfig

SETTINGS = "settings.json"
NUM_NAMED = 10
SAMPLES = "samples"  # how many there are, and a checksum of them
# These count from the next step on, or say where the same run takes place.
LATER = (
    "optimizer.", "lr.", "learn_from.", "validate_every", "checkpoint_every", "keep_checkpoints", "num_workers",
    "num_threads", "checkpoint_layers", "compile_layers", "precision",
)  # fmt: skip
PLACES = ("bags", "lesson.demonstrations", "run_dir", "output_dir", "cache", "device")


def named_settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting with its dotted name."""
    return dict(_named(config_to_dict(config)))


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any], where: str, but: str = "") -> tuple[str, ...]:
    """A line for each setting that was another one ``then``; raises ValueError, beginning with ``where`` and naming
    the first of them, for those that stay."""
    changed = (name for name in sorted({*then, *now} - {but}) if then.get(name) != now.get(name))
    lines = {name: f"{name} was {then.get(name)} and is {now.get(name)}" for name in changed}
    refused = [line for name, line in lines.items() if not name.startswith(LATER + PLACES)]
    if refused:
        more = [f"and {len(refused) - NUM_NAMED} more"] if len(refused) > NUM_NAMED else []
        named = "; ".join((*refused[:NUM_NAMED], *more))
        raise ValueError(f"{where}: {named}; set back what changed, or give another run_dir")
    return tuple(lines.values())


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Those that a run was last started with. Raises ValueError where they can't be read."""
    path = run_dir / SETTINGS
    with explained(f"{path}: ", OSError, TypeError, ValueError, after="; expected the run_dir of a vla_ros train"):
        return dict(parse_json(read_text(path)))


def _named(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every setting in nested mappings with its dotted name."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [item for key, inner in value.items() for item in _named(inner, f"{name}.{key}" if name else key)]
