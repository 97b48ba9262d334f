"""``vla_ros import`` for LeRobot's and openpi's checkpoints: read, ask for what they don't say, write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from vla_ros.policies.importing.declaring import Declaration, assign_cameras, black_slots, check_order, declare
from vla_ros.policies.importing.directory import ImportReport, check_free, write_policy
from vla_ros.policies.importing.lerobot import ACTION, STATE, LeRobotCheckpoint, read_lerobot
from vla_ros.policies.importing.openpi import CAMERAS, OpenPiCheckpoint, read_openpi
from vla_ros.policies.importing.settings import LEROBOT_VERSIONS, CameraSettings, Imported, ImportSettings
from vla_ros.policies.importing.source import BY_LEROBOT, LEROBOT, Source, check_type
from vla_ros.robot import RobotConfig
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.files import joints_of
from vla_ros.strict import config_to_dict, quoted

# What imports a checkpoint of each type.
IMPORTERS = {
    "pi0": "vla_ros.policies.pi0.lerobot:import_lerobot",
    "pi05": "vla_ros.policies.pi0.lerobot:import_lerobot",
    "smolvla": "vla_ros.policies.smolvla.lerobot:import_lerobot",
    "act": "vla_ros.policies.act.lerobot:import_lerobot",
    "openpi": "vla_ros.policies.pi0.openpi:import_openpi",
}
# What a checkpoint of each type has no use for: an option that is dropped in silence would be believed.
NOT_FOR = {
    "pi0": ("asset", "vlm", "no-state-in-prompt"),
    "pi05": ("asset", "vlm", "no-state-in-prompt"),
    "smolvla": ("asset", "no-state-in-prompt"),
    "act": ("asset", "vlm", "no-state-in-prompt", "tokenizer"),
    "openpi": ("vlm", "ignore-step", "lerobot-version"),
}


@dataclass(frozen=True)
class Answers:
    """What the user says besides: ``cameras`` are ``SLOT=NAME``, the rest as the readers and the settings have it."""

    space: str | None = None
    cameras: Sequence[str] = ()
    chunk_dt_s: float | None = None
    asset: str | None = None
    tokenizer: str | None = None
    vlm: str | None = None
    lerobot_version: str = LEROBOT_VERSIONS[-1]
    ignored_steps: tuple[str, ...] = ()
    tells_state: bool = True
    for_training: bool = False


def import_checkpoint(source: Source, out: Path, robot_config: RobotConfig, answers: Answers) -> ImportReport:
    """Make the policy directory ``out`` for a robot.

    Raises ValueError, in one line, for an ``out`` that is in use, a checkpoint that isn't whole or isn't known, what it
    doesn't say and nobody else does, and what contradicts it.
    """
    check_free(out)
    robot = robot_joints(robot_config, answers)
    if source.kind == LEROBOT:
        check_type(source.folder)
        checkpoint: Any = read_lerobot(source.folder, answers.ignored_steps)
        kind, keys = checkpoint.type, tuple(each.key for each in checkpoint.cameras)
        if not keys:
            raise ValueError(
                f"{source.folder}: its features name no camera; give a checkpoint that was trained with one"
            )
        declared = _declare_lerobot(checkpoint, robot, answers)
        if answers.for_training:
            checkpoint = checkpoint.sized({STATE: declared.state.size, ACTION: declared.action.size})
    else:
        _check_start(answers, source.folder)
        checkpoint = read_openpi(source.folder, answers.asset)
        kind, keys = "openpi", CAMERAS
        declared = declare(answers.space, robot, {"state": None, "action": None}, (), _what(checkpoint))
    _check_options(kind, answers)
    settings = make_settings(keys, declared, robot_config, answers, _what(checkpoint))
    return write_policy(out, checkpoint.weights, _load(IMPORTERS[kind])(checkpoint, settings))


def robot_joints(robot: RobotConfig, answers: Answers) -> RobotJoints:
    """A robot's joints, at the time between actions that the user says."""
    return replace(joints_of(robot), chunk_dt_s=answers.chunk_dt_s or math.nan)


def make_settings(
    keys: Sequence[str], declared: Declaration, robot_config: RobotConfig, answers: Answers, what: str
) -> ImportSettings:
    """What is known of the checkpoint ``what``, whose pictures have the ``keys``. Raises ValueError for a camera or a
    time between actions that nobody says."""
    robot = robot_joints(robot_config, answers)
    chunk_dt_s = answers.chunk_dt_s or declared.file.chunk_dt_s
    if chunk_dt_s is None:
        raise ValueError(f"{what} doesn't say how far apart its actions are; say it with --chunk-dt-s S")
    known, slots = (
        {x.name: CameraSettings(x.name, x.height, x.width) for x in robot_config.cameras},
        declared.file.cameras,
    )
    cameras = assign_cameras(keys, answers.cameras, slots, known)
    return ImportSettings(
        joint_names=robot.names,
        cameras=cameras,
        chunk_dt_s=chunk_dt_s,
        state=declared.file.state,
        action=declared.file.action,
        joint_limits=_limits(declared, robot),
        tokenizer=answers.tokenizer,
        vlm=answers.vlm,
        lerobot_version=answers.lerobot_version,
        tells_state=answers.tells_state,
        robot=robot_config,
        for_training=answers.for_training,
        black=black_slots(keys, cameras, slots),
    )


def _declare_lerobot(checkpoint: LeRobotCheckpoint, robot: RobotJoints, answers: Answers) -> Declaration:
    if checkpoint.type not in IMPORTERS:
        known = ", ".join(kind for kind in IMPORTERS if kind != "openpi")
        got = f"{checkpoint.folder} is a LeRobot checkpoint of type '{quoted(checkpoint.type)}'"
        raise ValueError(f"{got}; expected {known}, or {BY_LEROBOT}")
    if answers.for_training and not checkpoint.has_stats:  # its numbers are those of no robot
        return declare(answers.space, robot, {"state": None, "action": None}, (), _what(checkpoint))
    _check_start(answers, checkpoint.folder)
    checkpoint.check_stats()
    shapes = {each.key: each.shape for each in checkpoint.inputs}
    sizes = {"state": shapes.get(STATE, (None,))[0], "action": checkpoint.feature(ACTION).shape[0]}
    declared = declare(answers.space, robot, sizes, checkpoint.relative_dims(), _what(checkpoint))
    check_order(checkpoint.action_names(), declared.action, _what(checkpoint))
    return declared


def _check_options(kind: str, answers: Answers) -> None:
    given = {
        "asset": answers.asset,
        "vlm": answers.vlm,
        "tokenizer": answers.tokenizer,
        "no-state-in-prompt": not answers.tells_state,
        "ignore-step": answers.ignored_steps,
        "lerobot-version": answers.lerobot_version != LEROBOT_VERSIONS[-1],
    }
    for option in NOT_FOR[kind]:
        if given[option]:
            whose = "openpi's checkpoints" if kind == "openpi" else f"LeRobot's '{kind}'"
            raise ValueError(f"--{option} is not for {whose}; leave it out")


def _check_start(answers: Answers, folder: Path) -> None:
    if answers.for_training:
        raise ValueError(f"--for-training: {folder} has statistics and is no base checkpoint; leave it out")


def _what(checkpoint: LeRobotCheckpoint | OpenPiCheckpoint) -> str:
    return str(checkpoint.folder)


def _limits(declared: Declaration, robot: RobotJoints) -> dict[str, list[float]]:
    """Of the joints whose limits the space depends on."""
    needed = (*declared.state.needs_limits_of, *declared.action.needs_limits_of)
    return config_to_dict({name: list(robot.limits[name]) for name in needed})


def _load(name: str) -> Callable[..., Imported]:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
