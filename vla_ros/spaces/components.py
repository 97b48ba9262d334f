"""The components of a space, each some numbers of a vector, made of joint positions and back: positions of joints, in a
unit or in a share of their range, and padding.

Another component is a subclass in a file of its own and an entry of ``COMPONENTS`` in ``space.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.strict import check_range
from vla_ros.units import SI_PER_UNIT

REFERENCES = ("absolute", "observation", "previous")


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


@dataclass(frozen=True, kw_only=True)
class Positions(Component):
    """A number for each joint: ``sign`` times its position in ``unit``, plus ``offset`` in that unit; or, with
    ``range``, what its lower and upper limit become, and in between a line.

    An action of ``reference`` ``observation`` is added to that number measured at ``t_obs``, one of ``previous`` to
    that of the action before it, the first to the measured.
    """

    unit: str = "rad"
    range: tuple[float, ...] | None = None
    sign: float = 1.0
    offset: float = 0.0
    reference: str = "absolute"

    def __post_init__(self) -> None:
        for key, value, choices in (
            ("unit", self.unit, tuple(SI_PER_UNIT)),
            ("sign", self.sign, (1, -1)),
            ("reference", self.reference, REFERENCES),
        ):
            if value not in choices:
                raise ValueError(f"{key} is {value!r}; expected one of {', '.join(map(str, choices))}")
        if self.range is not None and (len(self.range) != 2 or self.range[0] == self.range[1]):
            raise ValueError(f"range is {list(self.range)}; expected two numbers that differ, for lower and upper")
        if self.range is not None and (self.unit, self.sign, self.offset) != ("rad", 1.0, 0.0):
            raise ValueError("range stands beside unit, sign or offset; expected one or the other: [b, a] inverts")

    @property
    def size(self) -> int:
        return len(self.joint_names)

    @property
    def needs_limits_of(self) -> tuple[str, ...]:
        return () if self.range is None else self.joint_names

    @property
    def why_no_state(self) -> str:
        return "" if self.reference == "absolute" else f"reference is '{self.reference}'; expected absolute in a state"

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        values = self._values(targets, robot)
        if self.reference == "absolute":
            return values
        start = self._values(measured, robot)[..., None, :]
        return values - start if self.reference == "observation" else np.diff(values, axis=-2, prepend=start)

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        if self.reference != "absolute":
            start = self._values(measured, robot)[..., None, :]
            values = start + (values if self.reference == "observation" else np.cumsum(values, axis=-2))
        scale, offset = self._line(robot)
        targets[..., robot.columns(self.joint_names)] = (values - offset) / scale

    def _values(self, positions: np.ndarray, robot: RobotJoints) -> np.ndarray:
        scale, offset = self._line(robot)
        return positions[..., robot.columns(self.joint_names)] * scale + offset

    def _line(self, robot: RobotJoints) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset that make numbers of positions, of each joint or of all of them."""
        if self.range is None:
            return np.asarray(self.sign / SI_PER_UNIT[self.unit]), np.asarray(self.offset)
        lower, upper = np.array([robot.limits[name] for name in self.joint_names], np.float64).T
        scale = (self.range[1] - self.range[0]) / (upper - lower)
        return scale, self.range[0] - lower * scale


@dataclass(frozen=True, kw_only=True)
class Joint(Positions):
    """One joint."""

    joint: str

    @property
    def joint_names(self) -> tuple[str, ...]:
        return (self.joint,)


@dataclass(frozen=True, kw_only=True)
class Joints(Positions):
    """Several joints, in the order of the vector, that share everything else."""

    joints: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.joints:
            raise ValueError("joints is empty; expected the name of at least one joint")

    @property
    def joint_names(self) -> tuple[str, ...]:
        return self.joints


@dataclass(frozen=True)
class Constant(Component):
    """``size`` numbers that mean nothing: ``value`` goes in, what comes out is dropped."""

    size: int = 1
    value: float = 0.0

    def __post_init__(self) -> None:
        check_range("", self, 1, 10_000, "size")

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        return np.full((*targets.shape[:-1], self.size), self.value)

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        pass
