"""A released run written as a policy directory, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vla_ros.policies.directory import infer
from vla_ros.policies.files import GOLDEN_FILE, WEIGHTS_FILE, open_policy, replaced_whole, write_files
from vla_ros.policies.golden import GoldenCase, decode_golden, write_golden
from vla_ros.policies.importing.precision import float32_arithmetic
from vla_ros.policies.importing.writer import write_safetensors
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.policies.pi.released.config import read_released_config
from vla_ros.policies.pi.released.settings import RobotSettings, data_config, processor_config
from vla_ros.policies.pi.released.source import find_image_config, find_run, find_stats, find_tokenizer, find_vlm_config
from vla_ros.policies.pi.released.statistics import read_released_stats
from vla_ros.policies.pi.released.weights import ReleasedPolicy, fill_policy
from vla_ros.policies.processor import stats_shapes
from vla_ros.transforms.tokenizer import read_tokenizer
from vla_ros.types import Observation

GOLDEN_TASK = "move to the red block"
GOLDEN_SEED = 0


@dataclass(frozen=True)
class ImportReport:
    """What was imported: the checkpoint file and its size, what became of the output embedding, the new digest."""

    model: Path
    num_parameters: int
    num_bytes: int
    head: str
    image_size: tuple[int, int]
    digest: str


def import_run(
    source: str, out: Path, robot: RobotSettings, vlm: str | None = None, stats: str | None = None
) -> ImportReport:
    """Make the policy directory ``out`` of a released run.

    ``source`` and ``vlm`` as ``released.source`` takes them, ``stats`` an ``.npz`` where the run has none. Nothing is
    left behind where it fails. Raises ValueError, in one line, for an ``out`` that is in use, whatever ``fill_policy``
    refuses, joints that are not the policy's, and statistics or a tokenizer that don't fit.
    """
    _check_free(out)
    run = find_run(source)
    released = read_released_config(run.cfg)
    vlm_config = find_vlm_config(run, released.model_id, vlm)
    policy = fill_policy(run, released, vlm_config, dtype=None)
    config = policy.config
    tokenizer = find_tokenizer(vlm_config, released.model_id)
    processor = PiProcessor(
        config=config,
        data=data_config(config, robot),
        images=processor_config(config, released, find_image_config(vlm_config), robot.camera_size),
        tokenizer=read_tokenizer(tokenizer, str(tokenizer)),
        stats=read_released_stats(find_stats(run, stats), stats_shapes(config)),
    )
    with replaced_whole(out) as folder:
        digest = _write(folder, policy, processor)
    parameters = list(policy.policy.parameters())
    return ImportReport(
        model=run.model,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_bytes=sum(parameter.nbytes for parameter in parameters),
        head=policy.head,
        image_size=processor.image_size,
        digest=digest,
    )


def _write(folder: Path, policy: ReleasedPolicy, processor: PiProcessor) -> str:
    """Every file of the directory; returns its digest, after reading it all back."""
    write_files(folder, processor)
    weights = {name: value.detach() for name, value in policy.policy.named_parameters()}
    write_safetensors(folder / WEIGHTS_FILE, weights, policy.memory)
    observation = _golden_observation(processor)
    request = processor.process(observation)
    with float32_arithmetic(policy.memory):
        actions = infer(policy.policy, request, torch.device("cpu"))
    decoded = decode_golden(processor, observation, actions)
    write_golden(folder / GOLDEN_FILE, GoldenCase(observation, request, actions, decoded))
    return open_policy(folder).processor.digest


def _golden_observation(processor: PiProcessor) -> Observation:
    """Noise from a fixed seed as images, at the mean state, or zeros for a policy that sees none: a release comes
    without a real observation."""
    rng = np.random.default_rng(GOLDEN_SEED)
    shape, cameras, state = (*processor.camera_size, 3), processor.camera_names, processor.stats.get("state")
    joints = np.zeros(len(processor.joint_names))
    if state is not None:
        joints = processor.data.state_space.decode(state.mean[-1:].astype(np.float64), joints)[0]
    return Observation(
        stamp_ns=GOLDEN_SEED,
        headers_ns=dict.fromkeys(cameras, GOLDEN_SEED),
        images={name: rng.integers(0, 256, shape, np.uint8) for name in cameras},
        joint_positions=joints,
        task=GOLDEN_TASK,
    )


def _check_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise ValueError(f"{out} exists and is not empty; give a new folder, or remove it")
