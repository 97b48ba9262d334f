"""A policy directory from any checkpoint of a run: the averaged weights, and a golden case that they answer.

What that takes besides weights the run keeps in ``export/``: the other files of a policy directory, and an observation.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vla_ros.policies.config import CONFIG_FILE
from vla_ros.policies.directory import save_policy
from vla_ros.policies.files import read_files, replaced_whole, write_files
from vla_ros.policies.fill import build_on_meta, check_shapes, fill_policy
from vla_ros.policies.golden import read_observation, write_observation
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.strict import explained
from vla_ros.training.checkpoints import (
    AVERAGE,
    WEIGHTS,
    check_files,
    find_checkpoints,
    read_info,
    read_stored,
    read_tensors,
)
from vla_ros.training.settings import changed_settings, read_settings
from vla_ros.types import Observation

EXPORT = "export"
OBSERVATION_FILE = "observation.safetensors"


def keep_for_export(run_dir: Path, processor: PolicyProcessor, observation: Observation) -> None:
    """Write into a run's folder what an export takes; ``observation`` is a real one."""
    with replaced_whole(run_dir / EXPORT) as folder:
        write_files(folder, processor)
        write_observation(folder / OBSERVATION_FILE, observation)


def export_policy(run_dir: Path, out: Path, step: int | None = None) -> Path:
    """Write the policy directory ``out`` of a run's newest checkpoint, or that of ``step``, which is returned. This
    process alone does it, and holds the weights once.

    Raises ValueError where the run hasn't that checkpoint, and for one that is damaged or of another run.
    """
    path = _find(run_dir, step)
    info = read_info(path)
    changed_settings(info.settings, read_settings(run_dir), f"{path} is not of this run")
    check_files(path, info)
    folder = run_dir / EXPORT
    with explained(f"{folder}: ", OSError, ValueError, after="; start the run again with --resume, which writes it"):
        processor = read_files(folder)
        observation = read_observation(folder / OBSERVATION_FILE)
    stored = read_stored(path)
    policy = build_on_meta(processor.config, CONFIG_FILE)
    shapes = {name.removeprefix(WEIGHTS): list(each.size) for name, each in stored.items() if name.startswith(WEIGHTS)}
    with explained(f"{path}: "):
        check_shapes(shapes, policy, f"it doesn't belong to {folder}")
    best = {name: AVERAGE + name if AVERAGE + name in stored else WEIGHTS + name for name in shapes}
    weights = {key: torch.empty(stored[key].size, dtype=stored[key].properties.dtype) for key in best.values()}
    read_tensors(path, weights, alone=True)
    fill_policy(policy, lambda name: weights.pop(best[name]))
    save_policy(out, policy.eval(), processor, observation)
    return path


def _find(run_dir: Path, step: int | None) -> Path:
    found = find_checkpoints(run_dir)
    wanted = found[-1:] if step is None else [path for path in found if path.name == f"step_{step}"]
    if not wanted:
        there = ", ".join(path.name for path in found) or "none"
        what = "no checkpoint" if step is None else f"no step_{step}"
        raise ValueError(f"{run_dir} has {what}; its checkpoints are {there}: give the run_dir of a vla_ros train")
    return wanted[0]
