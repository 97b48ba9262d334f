"""How fast joints go, in actions. The targets are the positions that this leads to, so that every output can follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.spaces.components import Component, RobotJoints, check_choice
from vla_ros.spaces.positions import check_named

UNITS = ("rad_per_s",)


@dataclass(frozen=True, kw_only=True)
class JointVelocity(Component):
    """At 1.0 each of ``joints`` moves by ``scale`` from one action to the next, in rad or m; with ``unit`` the numbers
    are rad/s (m/s). The first action starts where the joints were measured.

    With ``norm_limit`` all numbers of an action are scaled down where the largest is beyond 1; what that leaves of
    the way the next actions make good when joints are encoded.
    """

    joints: tuple[str, ...]
    scale: float | None = None
    unit: str | None = None
    norm_limit: bool = False

    def __post_init__(self) -> None:
        check_named(self.joints)
        if (self.scale is None) == (self.unit is None):
            raise ValueError("a joint_velocity takes scale (rad for each action at 1.0) or unit: rad_per_s; give one")
        if self.scale == 0:
            raise ValueError("scale is 0; expected how many rad an action of 1.0 moves a joint")
        if self.unit is not None:
            check_choice("unit", self.unit, UNITS)

    @property
    def joint_names(self) -> tuple[str, ...]:
        return self.joints

    @property
    def why_no_state(self) -> str:
        return "a joint_velocity says how an action moves joints; expected joints in a state"

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        step = self._step(robot)
        before = np.concatenate([measured[..., None, :], targets[..., :-1, :]], axis=-2)
        values = robot.motion(targets, before, self.joints) / step
        if self.norm_limit:
            left = np.zeros_like(values[..., 0, :])
            for k in range(values.shape[-2]):
                wanted = values[..., k, :] + left
                values[..., k, :] = _limited(wanted)
                left = wanted - values[..., k, :]
        return values

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        columns = robot.columns(self.joints)
        values = _limited(values) if self.norm_limit else values
        targets[..., columns] = measured[..., None, columns] + np.cumsum(values, axis=-2) * self._step(robot)

    def _step(self, robot: RobotJoints) -> float:
        return robot.chunk_dt_s if self.scale is None else self.scale


def _limited(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.abs(values).max(axis=-1, keepdims=True), 1.0)
