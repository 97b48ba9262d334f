"""What a component of a space is: some numbers of a vector, made of joint positions and back.

Another component is a subclass in a file of its own and an entry of ``COMPONENTS`` in ``space.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla_ros.interpolate import whole_turns
from vla_ros.spaces.kinematics import Chain, Kinematics
from vla_ros.strict import check_range, quoted

REFERENCES = ("absolute", "observation", "previous")
FITTING_TRAVELS = 10.0  # that what a policy learned from spans at most: another unit is 57, 100 or 1000 times one


@dataclass(frozen=True)
class RobotJoints:
    """The joints in the robot file's order; ``limits`` are lower and upper, rad or m, of those that are known,
    ``continuous`` those that turn without end. Actions are ``chunk_dt_s`` apart, not a number where that isn't known;
    poses need ``kinematics``."""

    names: tuple[str, ...]
    limits: Mapping[str, Sequence[float]]
    chunk_dt_s: float = math.nan
    continuous: tuple[str, ...] = ()
    kinematics: Kinematics | None = None
    _chains: dict[tuple[str, str], Chain] = field(default_factory=dict, repr=False, compare=False)

    def columns(self, names: Sequence[str]) -> list[int]:
        """Where ``names`` stand among all joints."""
        return [self.names.index(name) for name in names]

    def motion(self, positions: np.ndarray, before: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """From ``before`` to ``positions``, both ``[..., num_joints]`` of all joints, that of ``names`` ``[...,
        num_names]``: the short way where a joint turns without end."""
        columns = self.columns(names)
        step = positions[..., columns] - before[..., columns]
        return step - whole_turns(step, np.array([name in self.continuous for name in names]))

    def chain(self, base: str, tip: str) -> Chain:
        """From link ``base`` to link ``tip``, or those of the robot where these are empty. Raises ValueError as
        ``Chain``, and where the robot has no kinematics."""
        if self.kinematics is None:
            raise ValueError("a pose needs a URDF; add kinematics: {urdf, base, tip} to the robot file")
        ends = base or self.kinematics.base, tip or self.kinematics.tip
        if ends not in self._chains:
            self._chains[ends] = Chain(self.kinematics, *ends, self.names, self.limits)
        return self._chains[ends]


class Component(ABC):
    """A frozen dataclass of what the declaration says, so that its fields are the keys in policy.yaml.

    Its methods take absolute joint targets, SI, ``[..., horizon, num_joints]``, and the joints ``measured`` at
    ``t_obs``, ``[..., num_joints]``.
    """

    needs_kinematics = False
    """Whether its numbers depend on the robot's links."""

    @property
    def size(self) -> int:
        """How many numbers of the vector it takes: one for each of ``joint_names`` where it doesn't say another."""
        return len(self.joint_names)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints that its numbers are of, as far as it names them."""
        return ()

    def moves(self, robot: RobotJoints) -> tuple[str, ...]:
        """The joints of ``robot`` that an action moves."""
        return self.joint_names

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

    def shortfall(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> str:
        """In one line, what of ``values`` the ``targets`` that they were decoded to don't do; empty where they do."""
        return ""

    def missed(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> np.ndarray:
        """Of which actions ``shortfall`` speaks, bool ``[..., horizon]``."""
        return np.zeros(values.shape[:-1], bool)

    def misfit(self, low: np.ndarray, high: np.ndarray, robot: RobotJoints) -> str:
        """Why numbers that are mostly from ``low`` to ``high`` ``[size]`` can't be what is declared; empty where they
        can."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Line(Component):
    """A number for each joint, which its position becomes along a line.

    An action of ``reference`` ``observation`` is added to that number measured at ``t_obs``, one of ``previous`` to
    that of the action before it, the first to the measured.
    """

    reference: str = "absolute"

    def __post_init__(self) -> None:
        check_choice("reference", self.reference, REFERENCES)

    @abstractmethod
    def line(self, robot: RobotJoints) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset that make numbers of positions, of each joint or of all of them."""

    @property
    def why_no_state(self) -> str:
        return "" if self.reference == "absolute" else f"reference is '{self.reference}'; expected absolute in a state"

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        names, (scale, offset) = self.joint_names, self.line(robot)
        if self.reference == "absolute":
            return targets[..., robot.columns(names)] * scale + offset
        before = measured[..., None, :]
        if self.reference == "previous":
            before = np.concatenate([before, targets[..., :-1, :]], axis=-2)
        return robot.motion(targets, before, names) * scale

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        columns, (scale, offset) = robot.columns(self.joint_names), self.line(robot)
        if self.reference != "absolute":
            start = (measured[..., columns] * scale + offset)[..., None, :]
            values = start + (values if self.reference == "observation" else np.cumsum(values, axis=-2))
        targets[..., columns] = (values - offset) / scale

    def misfit(self, low: np.ndarray, high: np.ndarray, robot: RobotJoints) -> str:
        scales = np.broadcast_to(self.line(robot)[0], low.shape)
        for name, start, end, scale in zip(self.joint_names, low, high, scales, strict=True):
            travel = abs(scale) * float(np.ptp(robot.limits[name]))
            if end - start > FITTING_TRAVELS * travel:
                got = f"the numbers of joint '{name}' are from {start:.3g} to {end:.3g} by the statistics"
                return f"{got}, and span {travel:.3g} as declared; expected another unit, range, or open and closed"
        return ""


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


def check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raises ValueError where a key's value is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"{key} is {quoted(repr(value))}; expected one of {', '.join(map(str, choices))}")
