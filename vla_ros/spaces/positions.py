"""Joint positions as numbers: in a unit, or as a share of the joint's range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.spaces.components import Line, RobotJoints, check_choice
from vla_ros.units import SI_PER_UNIT

ZEROS = ("own", "middle")


@dataclass(frozen=True, kw_only=True)
class Positions(Line):
    """``sign`` times each joint's position in ``unit``, plus ``offset`` in that unit, from the joint's ``own`` zero or
    the ``middle`` of its limits; or, with ``range``, what its lower and upper limit become."""

    unit: str = "rad"
    range: tuple[float, ...] | None = None
    sign: float = 1.0
    offset: float = 0.0
    zero: str = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("unit", self.unit, tuple(SI_PER_UNIT))
        check_choice("sign", self.sign, (1, -1))
        check_choice("zero", self.zero, ZEROS)
        if self.range is not None and (len(self.range) != 2 or self.range[0] == self.range[1]):
            raise ValueError(f"range is {list(self.range)}; expected two numbers that differ, for lower and upper")
        if self.range is not None and (self.unit, self.sign, self.offset, self.zero) != ("rad", 1.0, 0.0, "own"):
            raise ValueError("range stands beside unit, sign or offset; expected one or the other: [b, a] inverts")

    @property
    def needs_limits_of(self) -> tuple[str, ...]:
        return () if self.range is None and self.zero == "own" else self.joint_names

    def line(self, robot: RobotJoints) -> tuple[np.ndarray, np.ndarray]:
        plain = np.asarray(self.sign / SI_PER_UNIT[self.unit])
        if self.range is None and self.zero == "own":
            return plain, np.asarray(self.offset)
        lower, upper = np.array([robot.limits[name] for name in self.joint_names], np.float64).T
        if self.range is None:
            return plain, self.offset - plain * (lower + upper) / 2
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
        check_named(self.joints)

    @property
    def joint_names(self) -> tuple[str, ...]:
        return self.joints


def check_named(joints: tuple[str, ...]) -> None:
    """Raises ValueError where a list of joints is empty."""
    if not joints:
        raise ValueError("joints is empty; expected the name of at least one joint")
