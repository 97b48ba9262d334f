"""What was read of a checkpoint, written as a policy directory, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.policies.directory import infer
from vla_ros.policies.files import GOLDEN_FILE, WEIGHTS_FILE, open_policy, replaced_whole, write_files
from vla_ros.policies.golden import GoldenCase, decode_golden, write_golden
from vla_ros.policies.importing.precision import float32_arithmetic
from vla_ros.policies.importing.settings import Imported
from vla_ros.policies.importing.writer import write_safetensors
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.robot import RobotConfig
from vla_ros.types import Observation

GOLDEN_TASK = "move to the red block"
GOLDEN_SEED = 0


@dataclass(frozen=True)
class ImportReport:
    """What was imported: the checkpoint file and its size, what became of the output embedding where there is one, the
    new digest."""

    model: Path
    num_parameters: int
    num_bytes: int
    head: str
    image_size: tuple[int, int]
    chunk_dt_s: float
    digest: str


def check_free(out: Path) -> None:
    """Raises ValueError where ``out`` holds something."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise ValueError(f"{out} exists and is not empty; give a new folder, or remove it")


def write_policy(out: Path, model: Path, imported: Imported) -> ImportReport:
    """Make the policy directory ``out``; nothing is left behind where it fails. Raises ValueError where it can't be
    written or read back."""
    with replaced_whole(out) as folder:
        digest = _write(folder, imported)
    parameters = list(imported.policy.parameters())
    return ImportReport(
        model=model,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_bytes=sum(parameter.nbytes for parameter in parameters),
        head=imported.head,
        image_size=imported.processor.image_size,
        chunk_dt_s=imported.processor.data.chunk_dt_s,
        digest=digest,
    )


def _write(folder: Path, imported: Imported) -> str:
    """Every file of the directory; returns its digest, after reading it all back."""
    policy, processor, memory = imported.policy, imported.processor, imported.memory
    write_files(folder, processor)
    weights = {name: value.detach() for name, value in policy.named_parameters()}
    write_safetensors(folder / WEIGHTS_FILE, weights, memory)
    observation = _golden_observation(processor)
    request = processor.process(observation)
    with float32_arithmetic(memory):
        actions = infer(policy, request, torch.device("cpu"))
    decoded = decode_golden(processor, observation, actions)
    write_golden(folder / GOLDEN_FILE, GoldenCase(observation, request, actions, decoded))
    return open_policy(folder).processor.digest


def write_answered(
    folder: Path, draft: PolicyProcessor, observation: Observation, actions: np.ndarray, **changes: Any
) -> PolicyProcessor:
    """The directory of a policy that is computed elsewhere, which answered ``observation`` with ``actions`` [horizon,
    action_dim]: ``draft`` is its processor before the length of a chunk was known, ``changes`` are of its
    configuration, too. Returns what was written, read back."""
    horizon = len(actions)
    config, data = replace(draft.config, action_horizon=horizon, **changes), replace(draft.data, action_horizon=horizon)
    processor = type(draft)(config, data, {})
    write_files(folder, processor)
    decoded = decode_golden(processor, observation, actions)
    write_golden(folder / GOLDEN_FILE, GoldenCase(observation, processor.process(observation), actions, decoded))
    return open_policy(folder).processor


def make_observation(processor: PolicyProcessor, robot: RobotConfig) -> Observation:
    """For a policy without statistics: noise from a fixed seed as images of the cameras' sizes, joints in the middle of
    their limits."""
    rng = np.random.default_rng(GOLDEN_SEED)
    sizes = {camera.name: (camera.height, camera.width) for camera in robot.cameras}
    low, high = robot.joint_values("lower"), robot.joint_values("upper")
    is_bounded = np.isfinite(low) & np.isfinite(high)
    return Observation(
        stamp_ns=GOLDEN_SEED,
        headers_ns=dict.fromkeys(processor.camera_names, GOLDEN_SEED),
        images={name: rng.integers(0, 256, (*sizes[name], 3), np.uint8) for name in processor.camera_names},
        joint_positions=np.where(is_bounded, (low + high) / 2, 0.0),
        task=GOLDEN_TASK,
    )


def _golden_observation(processor: PolicyProcessor) -> Observation:
    """Noise from a fixed seed as images, at the mean state, or zeros for a policy that sees none: a release comes
    without a real observation."""
    rng = np.random.default_rng(GOLDEN_SEED)
    sizes, state = processor.camera_sizes, processor.stats.get("state")
    joints = np.zeros(len(processor.joint_names))
    if state is not None:
        joints = processor.data.state_space.decode(state.mean[-1:].astype(np.float64), joints)[0]
    return Observation(
        stamp_ns=GOLDEN_SEED,
        headers_ns=dict.fromkeys(sizes, GOLDEN_SEED),
        images={name: rng.integers(0, 256, (*size, 3), np.uint8) for name, size in sizes.items()},
        joint_positions=joints,
        task=GOLDEN_TASK,
    )
