"""What every family's configuration says, and the ``data:`` group of a policy.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from vla_ros.robot import RobotConfig
from vla_ros.spaces.cameras import CameraSlot
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.kinematics import Kinematics, kinematics_of
from vla_ros.spaces.space import Space, joints_space, parse_space
from vla_ros.strict import REQUIRED, check_choice
from vla_ros.transforms.normalize import MODES

CONFIG_FILE = "policy.yaml"
CHUNK_DT_BOUNDS_S = (1e-3, 10.0)
# What an action of a directory without data.action is relative to.
ACTION_MODES = {"relative": "observation", "absolute": "absolute"}


@dataclass(frozen=True)
class Recipe:
    """AdamW as a family's releases were trained with it; the learning rate ends at ``final_scale`` of itself."""

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    max_grad_norm: float
    final_scale: float


class PolicyConfig:
    """The ``policy:`` group: each family's is a frozen dataclass of its own, with at least these in it.

    ``type`` is the family's name in ``families``; a state is [state_history, state_dim], a chunk [action_horizon,
    action_dim]. One that doesn't run here is computed by another program or library: its directory has neither weights
    nor statistics of this package. ``recipe`` is how the family's releases were trained, where that is known.
    """

    runs_here: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = None
    type: str
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int

    @property
    def normalization(self) -> str:
        """How the numbers of a new policy are normalised."""
        return "mean_std"

    @property
    def waits_for(self) -> str:
        """What each inference waits for besides its device; empty where nothing is."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines of what is to be known before it runs."""
        return ()


@dataclass(frozen=True)
class DataConfig:
    """The ``data:`` group: what the policy's numbers mean.

    ``joint_names`` are the robot's, in the order of its file. ``chunk_dt_s`` is the time between actions; action ``k``
    is due ``(k + action_offset) * chunk_dt_s`` after the observation. ``state`` and ``action`` declare the two vectors
    (see ``spaces.space``); without, they have a number in SI units for each joint, and ``action_mode`` says whether
    actions are ``relative`` to the joints measured at the observation (the default) or ``absolute``. A state is
    normalised as actions are unless ``state_normalization`` says otherwise. The policy looks at the robot's
    ``camera_names``, in its order; or at ``cameras``, slots that may be without one.

    ``for_training``: its statistics are nobody's, so that it may be trained and not driven with.

    Of the robot that the directory was made with are ``joint_limits``, of the joints whose limits a component depends
    on, ``continuous_joints``, those of actions that turn without end, and ``kinematics``, where there are poses.
    """

    joint_names: tuple[str, ...]
    camera_names: tuple[str, ...] = ()
    action_horizon: int = REQUIRED
    chunk_dt_s: float = REQUIRED
    action_offset: float = 1.0
    state_history: int = 1
    action_mode: str | None = None
    normalization: str = "quantile"
    state_normalization: str | None = None
    state: tuple[Mapping[str, Any], ...] | None = None
    action: tuple[Mapping[str, Any], ...] | None = None
    joint_limits: Mapping[str, Any] = field(default_factory=dict)
    continuous_joints: tuple[str, ...] = ()
    kinematics: Kinematics | None = None
    cameras: tuple[CameraSlot, ...] | None = None
    for_training: bool = False

    def __post_init__(self) -> None:
        check_choice("data.action_mode", self.action_mode or "relative", ACTION_MODES)
        check_choice("data.normalization", self.normalization, MODES)
        check_choice("data.state_normalization", self.state_normalization or self.normalization, MODES)
        if self.action is not None and self.action_mode is not None:
            got = f"data.action_mode is '{self.action_mode}' beside data.action"
            raise ValueError(f"{got}; remove it: each component says it by its reference")
        if self.cameras is not None and self.camera_names:
            raise ValueError("data.cameras stands beside data.camera_names; expected one of them")
        low, high = CHUNK_DT_BOUNDS_S
        if not low <= self.chunk_dt_s <= high:
            raise ValueError(f"data.chunk_dt_s is {self.chunk_dt_s}; expected {low} to {high} s between actions")
        if not abs(self.action_offset) <= self.action_horizon:
            got = f"data.action_offset is {self.action_offset}, in actions"
            raise ValueError(f"{got}; expected at most the horizon, {self.action_horizon}, either way")
        for name, limits in self.joint_limits.items():
            if not _is_pair(limits):
                raise ValueError(
                    f"data.joint_limits.{name} is {limits!r}; expected its lower and upper limit, rad or m"
                )
        _ = self.state_space, self.action_space  # a declaration that doesn't hold is refused now

    @cached_property
    def state_space(self) -> Space:
        """What the numbers of a state mean."""
        return joints_space(self._robot) if self.state is None else parse_space(self.state, "data.state", self._robot)

    @cached_property
    def action_space(self) -> Space:
        """What the numbers of an action mean."""
        if self.action is not None:
            return parse_space(self.action, "data.action", self._robot)
        return joints_space(self._robot, ACTION_MODES[self.action_mode or "relative"])

    @cached_property
    def slots(self) -> tuple[CameraSlot, ...]:
        """The images that the policy gets, in its order."""
        slots = tuple(CameraSlot(name, name) for name in self.camera_names) if self.cameras is None else self.cameras
        return tuple(slot for slot in slots if slot.is_seen)

    def bind(self, robot: RobotConfig) -> DataConfig:
        """The same for ``robot``, which has the same joints. Raises ValueError where that lacks what a pose needs."""
        spaces = self.state_space, self.action_space
        if any(space.needs_kinematics for space in spaces):
            bound = replace(self, kinematics=kinematics_of(robot))
            spaces = bound.state_space, bound.action_space
        else:
            bound = self
        needed = dict.fromkeys(name for space in spaces for name in space.needs_limits_of)
        turning = {name for name, turns in zip(robot.joint_names, robot.turns, strict=True) if turns}
        return replace(
            bound,
            joint_limits={name: list(robot.joint_limits[name]) for name in needed},
            continuous_joints=tuple(name for name in spaces[1].joint_names if name in turning),
        )

    @cached_property
    def _robot(self) -> RobotJoints:
        return RobotJoints(
            self.joint_names, self.joint_limits, self.chunk_dt_s, self.continuous_joints, self.kinematics
        )


def _is_pair(limits: Any) -> bool:
    numbers = isinstance(limits, list | tuple) and all(type(limit) in (int, float) for limit in limits)
    return numbers and len(limits) == 2 and -math.inf < limits[0] < limits[1] < math.inf
