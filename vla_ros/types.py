"""The plain values that pass between layers: numpy and standard types, nothing that needs ROS or torch.

Times are integer nanoseconds on the host's steady clock unless a name says otherwise; positions and
velocities are SI, in the joint order of the robot file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One camera image.

    ``image`` is RGB, uint8, ``[height, width, 3]``; ``stamp_ns`` is when it was taken, on the steady clock.
    """

    camera: str
    stamp_ns: int
    image: np.ndarray


@dataclass(frozen=True)
class JointSample:
    """Measured joint state: ``positions`` and ``velocities`` are ``[num_joints]`` float64, taken at ``stamp_ns``."""

    stamp_ns: int
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class Observation:
    """What a policy sees: one image of each camera, the joints at the same instant, and the instruction.

    ``stamp_ns`` is the oldest camera stamp used (``t_obs``); ``images`` maps camera name to uint8 RGB
    ``[height, width, 3]`` in the robot file's camera order; ``joint_positions`` is ``[num_joints]`` float64.
    """

    stamp_ns: int
    images: Mapping[str, np.ndarray]
    joint_positions: np.ndarray
    task: str


@dataclass(frozen=True)
class ActionChunk:
    """Absolute joint targets, ``positions`` ``[horizon, num_joints]``.

    Row ``k`` is due at ``stamp_ns + (k + offset) * chunk_dt_s``; ``stamp_ns`` is the observation's ``t_obs``.
    """

    stamp_ns: int
    chunk_dt_s: float
    offset: float
    positions: np.ndarray

    @property
    def horizon(self) -> int:
        return len(self.positions)

    def due_ns(self, k: int) -> int:
        """When action ``k`` is due, in ns on the clock of ``stamp_ns``."""
        return self.stamp_ns + round((k + self.offset) * self.chunk_dt_s * 1e9)


@dataclass(frozen=True)
class Command:
    """A bounded set point: ``positions`` and ``velocities`` ``[num_joints]``, for the tick at ``stamp_ns``.

    ``reason`` is empty when the target passed unchanged, else names the limit that bounded it.
    """

    stamp_ns: int
    positions: np.ndarray
    velocities: np.ndarray
    reason: str = ""
