"""``constant``: padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.spaces.component import Component, RobotJoints


@dataclass(frozen=True)
class Constant(Component):
    """``size`` numbers that mean nothing: ``value`` goes in, what comes out is dropped."""

    size: int = 1
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; expected at least 1")

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        return np.full((*targets.shape[:-1], self.size), self.value)

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        pass
