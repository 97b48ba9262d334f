"""A finger that slides, as a number that goes with the angle of the crank which drives it: ALOHA's grippers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.spaces.components import Component, RobotJoints


@dataclass(frozen=True, kw_only=True)
class Crank(Component):
    """``joint`` is at ``x`` m where a horn of ``horn_m`` is turned by ``a`` and a rod of ``rod_m`` joins them: ``x =
    horn sin a + sqrt(rod^2 - (horn cos a)^2)``. The number is ``(a - zero_rad) / span_rad``."""

    joint: str
    horn_m: float
    rod_m: float
    zero_rad: float = 0.0
    span_rad: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.horn_m < self.rod_m:
            raise ValueError(f"horn_m is {self.horn_m:g} and rod_m {self.rod_m:g}; expected a rod longer than the horn")
        if self.span_rad == 0:
            raise ValueError("span_rad is 0; expected what 1.0 more turns the crank by")

    @property
    def joint_names(self) -> tuple[str, ...]:
        return (self.joint,)

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        x = np.clip(targets[..., robot.columns([self.joint])], self.rod_m - self.horn_m, self.rod_m + self.horn_m)
        sine = (self.horn_m**2 + x**2 - self.rod_m**2) / (2 * self.horn_m * x)
        return (np.arcsin(np.clip(sine, -1.0, 1.0)) - self.zero_rad) / self.span_rad

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        angle = np.clip(values * self.span_rad + self.zero_rad, -np.pi / 2, np.pi / 2)
        along, across = self.horn_m * np.sin(angle), self.horn_m * np.cos(angle)
        targets[..., robot.columns([self.joint])] = along + np.sqrt(self.rod_m**2 - across**2)
