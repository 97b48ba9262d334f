"""What every component of a space gives: some numbers of a vector, made of joint positions and back.

Another component is a subclass in a file of its own and a line in ``registry.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RobotJoints:
    """The joints in the robot file's order; ``limits`` are lower and upper, rad or m, of those that are known."""

    names: tuple[str, ...]
    limits: Mapping[str, Sequence[float]]

    def columns(self, names: Sequence[str]) -> list[int]:
        """Where ``names`` stand among all joints."""
        return [self.names.index(name) for name in names]


class Component(ABC):
    """A frozen dataclass of what the declaration says, so that its fields are the keys in policy.yaml.

    Its methods take absolute joint targets, SI, ``[..., horizon, num_joints]``, and the joints ``measured`` at
    ``t_obs``, ``[..., num_joints]``.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers of the vector it takes."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints that its numbers are of: an action moves them."""
        return ()

    @property
    def needs_limits_of(self) -> tuple[str, ...]:
        """The joints whose limits its numbers depend on."""
        return ()

    @property
    def why_no_state(self) -> str:
        """Why it can only be part of an action; empty where it can be part of a state, too."""
        return ""

    @abstractmethod
    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        """Its numbers ``[..., horizon, size]``."""

    @abstractmethod
    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        """Write what its numbers ``values`` ``[..., horizon, size]`` say into ``targets``."""
