"""``vla_ros import --runner lerobot``: a checkpoint copied whole, and what LeRobot answers to one observation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vla_ros.policies.files import replaced_whole
from vla_ros.policies.importing.declaring import check_order, declare, refuse_black
from vla_ros.policies.importing.directory import check_free, make_observation, write_answered
from vla_ros.policies.importing.lerobot import ACTION, STATE, LeRobotCheckpoint
from vla_ros.policies.importing.run import Answers, make_settings, robot_joints
from vla_ros.policies.importing.settings import ImportSettings
from vla_ros.policies.lerobot.checkpoint import copy_checkpoint, read_checkpoint
from vla_ros.policies.lerobot.config import TYPE, LeRobotConfig, PictureInput
from vla_ros.policies.lerobot.installed import require_lerobot
from vla_ros.policies.lerobot.policy import LeRobotPolicy
from vla_ros.policies.lerobot.processor import LeRobotProcessor
from vla_ros.robot import RobotConfig
from vla_ros.strict import quoted
from vla_ros.types import Observation

TOLERANCE = 1e-4  # of a number's size: the same seed in the same process


@dataclass(frozen=True)
class LeRobotReport:
    """What was imported: LeRobot's name for it, the release that ran it, the size of a chunk; ``notes`` are lines of
    what is to be known."""

    lerobot_type: str
    release: str
    action_horizon: int
    action_dim: int
    chunk_dt_s: float
    digest: str
    notes: tuple[str, ...]


def import_for_lerobot(source: Path, out: Path, robot: RobotConfig, answers: Answers) -> LeRobotReport:
    """Make the policy directory ``out`` of the checkpoint in ``source``, on the CPU.

    Raises ValueError, in one line, where LeRobot isn't installed or can't run it, for an ``out`` that is in use, a
    checkpoint that isn't whole or could run code, what it doesn't say and nobody else does, and what contradicts it.
    """
    check_free(out)
    release = require_lerobot()
    checkpoint = read_checkpoint(source)
    settings = _settings(checkpoint, robot, answers)
    with replaced_whole(out) as folder:
        draft = _draft(checkpoint, settings, copy_checkpoint(source, folder / "checkpoint", answers.tokenizer))
        observation = make_observation(draft, robot)
        actions = _record(folder, draft, observation)
        processor = write_answered(folder, draft, observation, actions)
    config = draft.config
    return LeRobotReport(
        lerobot_type=config.lerobot_type,
        release=release,
        action_horizon=len(actions),
        action_dim=config.action_dim,
        chunk_dt_s=draft.data.chunk_dt_s,
        digest=processor.digest,
        notes=config.notes,
    )


def _settings(checkpoint: LeRobotCheckpoint, robot: RobotConfig, answers: Answers) -> ImportSettings:
    """Its actions are absolute, whatever the network's are: LeRobot's own processor has made them so."""
    what, keys = str(checkpoint.folder), [each.key for each in checkpoint.cameras]
    if not keys:
        raise ValueError(f"{what}: its features name no camera; give a checkpoint that was trained with one")
    unknown = [each for each in checkpoint.inputs if each.kind != "VISUAL" and each.key != STATE]
    if unknown:
        got = f"the input '{quoted(unknown[0].key)}' is of kind {quoted(unknown[0].kind)}"
        raise ValueError(f"{what}: {got}, which no robot measures; expected {STATE} and pictures")
    checkpoint.check_stats()
    shapes = {each.key: each.shape for each in checkpoint.inputs}
    sizes = {"state": shapes.get(STATE, (None,))[0], "action": checkpoint.feature(ACTION).shape[0]}
    declared = declare(answers.space, robot_joints(robot, answers), sizes, (), what)
    check_order(checkpoint.action_names(), declared.action, what)
    settings = make_settings(keys, declared, robot, answers, what)
    refuse_black(settings.black, "LeRobot")
    return settings


def _draft(checkpoint: LeRobotCheckpoint, settings: ImportSettings, files: dict[str, str]) -> LeRobotProcessor:
    """What makes requests, before the chunks' length is known."""
    pictures = [each for each in checkpoint.cameras if each.key in settings.cameras]
    for each in pictures:
        if len(each.shape) != 3 or each.shape[0] != 3:
            got = f"'{quoted(each.key)}' has shape {list(each.shape)}"
            raise ValueError(f"{checkpoint.folder}: {got}; expected [3, height, width]")
    state = [each for each in checkpoint.inputs if each.key == STATE]
    config = LeRobotConfig(
        type=TYPE,
        lerobot_type=checkpoint.type,
        pictures=tuple(PictureInput(each.key, (each.shape[1], each.shape[2])) for each in pictures),
        files=files,
        action_horizon=1,
        action_dim=checkpoint.feature(ACTION).shape[0],
        state_dim=state[0].shape[0] if state else 1,
        state_history=len(state),
        num_observations=checkpoint.number("n_obs_steps", 1),
    )
    data = settings.data_config([each.key for each in pictures], 1, "none")
    return LeRobotProcessor(config, replace(data, state_history=len(state)), {})


def _record(folder: Path, processor: LeRobotProcessor, observation: Observation) -> np.ndarray:
    """What LeRobot answers, asked twice: float32 [horizon, action_dim]. Raises ValueError for a chunk of other numbers
    than the space's, and where one seed gives two chunks."""
    config, policy = processor.config, LeRobotPolicy(processor.config)
    policy.load_sync(folder, torch.device("cpu"))
    inputs = policy.unpack_request(processor.process(observation))
    with torch.inference_mode():
        actions, again = policy.answer(inputs), policy.answer(inputs)
    policy.close()
    what = f"LeRobot's '{config.lerobot_type}'"
    if actions.shape[1] != config.action_dim or not len(actions):
        got = f"{what} gives chunks of {list(actions.shape)}"
        raise ValueError(f"{got}; expected [horizon, {config.action_dim}], the numbers of the space")
    if actions.shape != again.shape or np.abs(actions - again).max() > TOLERANCE * max(1.0, np.abs(actions).max()):
        raise ValueError(f"{what} gives other actions for the same observation and seed; no golden case can be made")
    return actions
