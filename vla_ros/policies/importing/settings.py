"""What a family's importer is given besides a checkpoint, and what it gives. No torch until a policy is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vla_ros.policies.config import DataConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.robot import RobotConfig
from vla_ros.spaces.cameras import CameraSlot

if TYPE_CHECKING:
    from vla_ros.policies.base import BasePolicy
    from vla_ros.policies.importing.mapped import MappedFile

ACTION_OFFSET = 0.0
"""A row of the recordings that LeRobot, openpi and vla-scratch train on holds what was commanded at its own frame, and
their policies give the rows from the observation's own on: action ``k`` is due ``k`` steps after it. (LeRobot's
Diffusion Policy and VQ-BeT predict rows before it, too, and give those from there on.)"""
LEROBOT_VERSIONS = ("0.3", "0.4", "0.6")
"""Whose rules a checkpoint was trained by: each stands for itself and those after it, up to the next."""


@dataclass(frozen=True)
class CameraSettings:
    """A camera of the robot: its name, and its pictures' size in pixels."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class ImportSettings:
    """What a checkpoint doesn't say and its user does.

    ``cameras`` are by the checkpoint's own keys; a key without one has no camera, and is masked, or black where it is
    one of ``black``. ``state`` and ``action`` declare the
    two vectors as policy.yaml does, on ``robot``, None for one without limits and links. ``tokenizer`` is a file or a
    folder, None to look for it where the checkpoint says; so is ``vlm``, the config.json of a backbone that is only
    named. ``lerobot_version`` is one of ``LEROBOT_VERSIONS``. ``tells_state``: a pi0.5's prompt tells the state, which
    openpi's training configurations may turn off. ``for_training``: there are no statistics yet.
    """

    joint_names: tuple[str, ...]
    cameras: Mapping[str, CameraSettings]
    chunk_dt_s: float
    state: tuple[Mapping[str, Any], ...] | None = None
    action: tuple[Mapping[str, Any], ...] | None = None
    joint_limits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tokenizer: str | None = None
    vlm: str | None = None
    lerobot_version: str = "0.6"
    tells_state: bool = True
    robot: RobotConfig | None = None
    for_training: bool = False
    black: tuple[str, ...] = ()

    def data_config(
        self, keys: Sequence[str], horizon: int, normalization: str, state_normalization: str | None = None
    ) -> DataConfig:
        """The ``data:`` group of a policy that looks at the slots ``keys``, in that order."""
        names = {key: camera.name for key, camera in self.cameras.items()}
        data = DataConfig(
            joint_names=self.joint_names,
            cameras=tuple(
                CameraSlot(key, names.get(key), missing="zeros" if key in self.black else "mask") for key in keys
            ),
            action_horizon=horizon,
            chunk_dt_s=self.chunk_dt_s,
            action_offset=ACTION_OFFSET,
            normalization=normalization,
            state_normalization=state_normalization,
            state=self.state,
            action=self.action,
            joint_limits=self.joint_limits,
            for_training=self.for_training,
        )
        return data if self.robot is None else data.bind(self.robot)


@dataclass(frozen=True)
class Imported:
    """A policy whose weights lie in ``memory``, the checkpoint's file, and its processor; ``head`` says what became of
    the output embedding of one that has one."""

    policy: BasePolicy
    processor: PolicyProcessor
    memory: MappedFile
    head: str = ""
