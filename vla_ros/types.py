"""The plain values that pass between layers: numpy and standard types, nothing that needs ROS or torch.

Times are integer nanoseconds on the host's steady clock unless a name says otherwise; positions and
velocities are SI, in the joint order of the robot file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from vla_ros.strict import check_count
from vla_ros.units import NS_PER_S

# More than any policy reads of it, and tokenized within milliseconds.
MAX_TASK_CHARACTERS = 4000


def check_task(task: str) -> None:
    """Raises ValueError for an instruction that is too long."""
    check_count("instruction", "characters", task, MAX_TASK_CHARACTERS)


Place = tuple[int, int, int]
"""Where a recording has a picture, as its reader means it: ``BagReader.message_at``, ``SetPictures``."""


class Mode(StrEnum):
    """``HOLD`` keeps the last command, ``TELEOP`` follows a human, ``POLICY`` the policy's chunks; ``ESTOP`` brakes and
    stays until it is reset."""

    HOLD = "HOLD"
    TELEOP = "TELEOP"
    POLICY = "POLICY"
    ESTOP = "ESTOP"


@dataclass(frozen=True)
class Frame:
    """One camera image.

    ``stamp_ns`` is when it was taken, on the steady clock, and ``header_ns`` the same in ROS time, as the message said.
    ``content`` is uint8, the image itself or, where there is ``decode`` to make the image of it when it is first looked
    at, what the camera sent: equal contents are equal images. ``place`` is where a recording has it.
    """

    camera: str
    stamp_ns: int
    header_ns: int
    content: np.ndarray
    decode: Callable[[], np.ndarray] | None = None
    place: Place | None = None

    @cached_property
    def image(self) -> np.ndarray:
        """RGB, uint8, ``[height, width, 3]``. Raises ValueError where it turns out to be none."""
        return self.content if self.decode is None else self.decode()


@dataclass(frozen=True)
class JointSample:
    """Measured joint state: ``positions`` and ``velocities`` are ``[num_joints]`` float64, taken at ``stamp_ns``. As a
    message says it, positions are not a number for a joint that it doesn't name; velocities are none where nobody knows
    them."""

    stamp_ns: int
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class Observation:
    """What a policy sees: one image of each camera, the joints at the same instant, and the instruction.

    ``stamp_ns`` is the oldest camera stamp used (``t_obs``); ``images`` maps camera name to uint8 RGB
    ``[height, width, 3]`` in the robot file's camera order, ``headers_ns`` the stamp of each in ROS time;
    ``joint_positions`` is ``[num_joints]`` float64.
    """

    stamp_ns: int
    headers_ns: Mapping[str, int]
    images: Mapping[str, np.ndarray]
    joint_positions: np.ndarray
    task: str

    @property
    def header_ns(self) -> int:
        """``t_obs`` in ROS time: what a bag knows it by."""
        return min(self.headers_ns.values())


@dataclass(frozen=True)
class ActionChunk:
    """Absolute joint targets, ``positions`` ``[horizon, num_joints]``.

    Row ``k`` is due at ``stamp_ns + (k + offset) * chunk_dt_s``; ``stamp_ns`` is the observation's ``t_obs``.
    ``shortfall`` is one line where the arm can't do what the policy said, and these targets are what comes nearest.
    """

    stamp_ns: int
    chunk_dt_s: float
    offset: float
    positions: np.ndarray
    shortfall: str = ""

    @property
    def horizon(self) -> int:
        return len(self.positions)

    def due_ns(self, k: int) -> int:
        """When action ``k`` is due, in ns on the clock of ``stamp_ns``."""
        return self.stamp_ns + round((k + self.offset) * self.chunk_dt_s * NS_PER_S)


@dataclass(frozen=True)
class Answer:
    """A chunk, the observation it answers, and when it was asked for and taken."""

    observation: Observation
    chunk: ActionChunk
    asked_ns: int
    arrived_ns: int


@dataclass(frozen=True)
class ChunkShape:
    """A policy's chunks: action ``k`` of ``horizon`` is due ``(k + offset) * dt_s`` after its observation."""

    horizon: int
    dt_s: float
    offset: float

    def due_ns(self, stamp_ns: int, k: int) -> int:
        return stamp_ns + round((k + self.offset) * self.dt_s * NS_PER_S)


@dataclass(frozen=True)
class Continuation:
    """What a chunk is to continue: ``positions`` ``[horizon, num_joints]``, the targets of the chunks before it at its
    actions' due times, not finite where they reach no further; ``num_frozen`` of its actions will be past by then."""

    positions: np.ndarray
    num_frozen: int

    @property
    def is_known(self) -> np.ndarray:
        """Bool ``[horizon]``: which actions the chunks before it reach."""
        return np.isfinite(self.positions).all(axis=1)

    @property
    def num_executed(self) -> int:
        """How many actions are executed for each inference: as many as the chunks before it no longer reach."""
        return max(len(self.positions) - int(self.is_known.sum()), self.num_frozen)


@dataclass(frozen=True)
class Command:
    """A bounded set point: ``positions`` and ``velocities`` ``[num_joints]``, for the tick at ``stamp_ns``.

    ``reason`` is empty when the target passed unchanged, else names the limit that bounded it.
    """

    stamp_ns: int
    positions: np.ndarray
    velocities: np.ndarray
    reason: str = ""
