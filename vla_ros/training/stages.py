"""What is trained in several runs: a configuration goes on from the policy of another one, which is trained first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vla_ros.training.config import TRAIN_PREFIX, TrainConfig, load_train_config

OWN_KEYS = ("run_dir", "output_dir", "start_from")  # of each run; other overrides count for all


def stages(config: TrainConfig, config_dir: Path, overrides: Sequence[str] = ()) -> tuple[TrainConfig, ...]:
    """The runs that make ``config``'s policy, in their order: ``config`` is the last, and before it comes what its
    ``start_from`` names by ``train:``, as long as its policy directory isn't there. ``overrides`` are those that
    ``config`` was composed with.

    Raises ValueError for one that can't be composed, or begins with itself.
    """
    kept = [text for text in overrides if text.lstrip("+~").partition("=")[0] not in OWN_KEYS]
    runs, seen = [config], [config.output_dir]
    while runs[0].start_from.startswith(TRAIN_PREFIX):
        name = runs[0].start_from.removeprefix(TRAIN_PREFIX)
        first = load_train_config(config_dir, name, kept)
        if first.output_dir in seen:
            got = f"start_from is {TRAIN_PREFIX}{name}, which writes {first.output_dir} as what goes on from it does"
            raise ValueError(f"{got}; expected another output_dir, or the name of another configuration")
        seen.append(first.output_dir)
        runs[0] = replace(runs[0], start_from=first.output_dir)
        if not Path(first.output_dir).expanduser().is_dir():
            runs.insert(0, first)
    return tuple(runs)
