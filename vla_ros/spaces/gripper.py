"""A gripper as a number, which is one for open and another for closed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.spaces.components import Line, RobotJoints, check_choice

ENDS = ("upper", "lower")


@dataclass(frozen=True, kw_only=True)
class Gripper(Line):
    """``open`` and ``closed`` are the vector's values at the two ends of the joint, which is open at its ``open_at``
    limit.

    With ``threshold`` it is at one end or the other, whichever side of it the value is; within ``hysteresis`` of it,
    half to each side, it stays as it was, at first at the end that is nearer to where it is measured.
    """

    joint: str
    open: float
    closed: float
    open_at: str = "upper"
    threshold: float | None = None
    hysteresis: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("open_at", self.open_at, ENDS)
        if self.open == self.closed:
            raise ValueError(f"open and closed are both {self.open:g}; expected two values that differ")
        low, high = sorted((self.open, self.closed))
        if self.threshold is None:
            if self.hysteresis:
                raise ValueError(f"hysteresis is {self.hysteresis:g} without a threshold; give one, or remove it")
            return
        if self.reference != "absolute":
            raise ValueError(f"reference is '{self.reference}' beside a threshold; expected absolute")
        if not low < self.threshold < high:
            raise ValueError(f"threshold is {self.threshold:g}; expected a value between {low:g} and {high:g}")
        most = 2 * min(self.threshold - low, high - self.threshold)
        if not 0 <= self.hysteresis < most:
            raise ValueError(f"hysteresis is {self.hysteresis:g}; expected at least 0 and less than {most:g}")

    @property
    def joint_names(self) -> tuple[str, ...]:
        return (self.joint,)

    @property
    def needs_limits_of(self) -> tuple[str, ...]:
        return (self.joint,)

    def line(self, robot: RobotJoints) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = robot.limits[self.joint]
        low, high = (self.closed, self.open) if self.open_at == "upper" else (self.open, self.closed)
        scale = (high - low) / (upper - lower)
        return np.asarray(scale), np.asarray(low - lower * scale)

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        values = super().encode(targets, measured, robot)
        return values if self.threshold is None else self._nearest_end(values)

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        if self.threshold is not None:
            state = self._nearest_end(super().encode(measured[..., None, :], measured, robot))[..., 0, :]
            sides = (values - self.threshold) * np.sign(self.open - self.closed)
            ends = np.empty_like(sides)
            for k in range(sides.shape[-2]):
                side = sides[..., k, :]
                state = np.where(np.abs(side) <= self.hysteresis / 2, state, np.where(side > 0, self.open, self.closed))
                ends[..., k, :] = state
            values = ends
        super().decode(values, measured, robot, targets)

    def _nearest_end(self, values: np.ndarray) -> np.ndarray:
        return np.where(np.abs(values - self.open) < np.abs(values - self.closed), self.open, self.closed)
