"""Jogging joints, or the tip, by the axes and buttons of a gamepad: no ROS, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vla_ros.robot import RobotConfig
from vla_ros.teleop.jog import DEFAULT_SPEED, Drive

NO_BUTTON = -1
# joy_node repeats what it has 20 times a second by default.
SILENCE_S = 0.5
NO_KINEMATICS = "the robot has no kinematics; add kinematics: {urdf, base, tip} to the robot file"
MOTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Axis:
    """An axis of ``joy`` by its index, turned round where ``sign`` is -1."""

    index: int
    sign: int = 1

    @classmethod
    def parse(cls, text: str) -> Axis:
        """``4`` or ``-4``. Raises ValueError for anything else."""
        digits = text.removeprefix("-")
        if not (digits.isdecimal() and len(digits) <= 2):
            raise ValueError(f"'{text}'; expected the index of an axis, 0 to 99, with - in front to turn it round")
        return cls(int(digits), -1 if text.startswith("-") else 1)


@dataclass(frozen=True)
class JoyLayout:
    """Which axis moves what: ``axes`` the joints in their order, as many at once, ``tip_axes`` the tip along and about
    x, y and z. Only while button ``deadman`` is held anything moves; ``next`` goes on to further joints, ``tip`` from
    joints to the tip and back (``NO_BUTTON``: none). Less than ``deadzone`` of an axis is none."""

    axes: tuple[Axis, ...]
    tip_axes: tuple[Axis, ...]
    deadman: int
    next: int = NO_BUTTON
    tip: int = NO_BUTTON
    deadzone: float = 0.1

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError("axes is empty; expected one at least")
        if len(self.tip_axes) != len(MOTIONS):
            raise ValueError(f"tip_axes has {len(self.tip_axes)} axes; expected {len(MOTIONS)}: {', '.join(MOTIONS)}")

    def problem(self, num_axes: int, num_buttons: int, with_tip: bool) -> str:
        """What a device of so many axes and buttons lacks, in one line; empty where it is enough."""
        axis = max(axis.index for axis in (*self.axes, *(self.tip_axes if with_tip else ())))
        button = max(self.deadman, self.next, self.tip)
        if axis < num_axes and button < num_buttons:
            return ""
        got = f"it has {num_axes} axes and {num_buttons} buttons"
        return f"{got}; expected more than axis {axis} and button {button}: set axes, tip_axes and the buttons"


class JoySession(Drive):
    """Who drives: whoever holds the dead-man button, from when it goes down until it is let go. ``step_tip`` gives the
    joints one period later of a tip that moves by shares of its speed; None where there is none, for ``no_tip``."""

    def __init__(
        self,
        robot: RobotConfig,
        layout: JoyLayout,
        period_s: float,
        speed: float = DEFAULT_SPEED,
        step_tip: Step | None = None,
        no_tip: str = NO_KINEMATICS,
    ) -> None:
        super().__init__(robot, period_s, speed)
        self._robot = robot
        self._layout = layout
        self._step_tip, self._no_tip = step_tip, no_tip
        self._driven = robot.columns(robot.driven_names)
        self._first = 0
        self._is_tip = False
        self._shares = np.zeros(len(layout.axes))
        self._motion = np.zeros(len(MOTIONS))
        # Held when it begins is not pressed.
        self._is_held, self._was_held, self._buttons = False, True, frozenset[int]()
        self._heard_s = -np.inf

    def hear(self, axes: Sequence[float], buttons: Sequence[int], now_s: float) -> str:
        """What the device says now. Returns why it is of no use, in one line, and then the robot is let go."""
        problem = self._layout.problem(len(axes), len(buttons), self._step_tip is not None)
        values = np.zeros(0) if problem else np.array(axes, np.float64)
        if not problem and not np.isfinite(values).all():
            problem = f"axis {int(np.flatnonzero(~np.isfinite(values))[0])} is not finite; expected -1 to 1"
        if problem:
            self._is_held = False
            return problem
        self._heard_s = now_s
        self._shares = self._read(values, self._layout.axes)
        if self._step_tip is not None:
            self._motion = self._read(values, self._layout.tip_axes)
        down = frozenset(i for i, value in enumerate(buttons) if value)
        self._is_held = self._layout.deadman in down
        for button in down - self._buttons:
            self._press(button)
        self._buttons = down
        return ""

    def drive(self, mode: str, positions: np.ndarray | None, now_s: float) -> np.ndarray | None:
        """The target ``[num_joints]`` to send now; ``positions`` as in ``take_over``. None while nobody holds on."""
        is_held = self._is_held and now_s - self._heard_s <= SILENCE_S
        if not is_held:
            self.release()
        elif not self._was_held:
            self.take_over(mode, positions, now_s)
        self._was_held = is_held
        if self.is_driving:
            self._move()
        return self.tick(mode, now_s)

    @property
    def moved(self) -> str:
        """What the axes move now."""
        if self._is_tip:
            return "the tip"
        return ", ".join(self._robot.joint_names[joint] for joint in self._joints)

    @property
    def _joints(self) -> list[int]:
        return self._driven[self._first : self._first + len(self._layout.axes)]

    def _press(self, button: int) -> None:
        if button == self._layout.next:
            self._first += len(self._layout.axes)
            self._first = 0 if self._first >= len(self._driven) else self._first
        elif button != self._layout.tip:
            return
        elif self._step_tip is None:
            self.lines.append(f"the tip cannot be moved: {self._no_tip}")
            return
        else:
            self._is_tip = not self._is_tip
        self.lines.append(f"the axes move {self.moved}")

    def _move(self) -> None:
        if self._is_tip and self._step_tip is not None:
            self.jog.lead(self._step_tip(self.jog.target, self._motion * self.jog.speed))
            return
        shares = np.zeros(self._robot.num_joints)
        joints = self._joints
        shares[joints] = self._shares[: len(joints)]
        self.jog.push(shares)

    def _read(self, values: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
        """Shares of full speed, -1 to 1, which begin at 0 where the dead zone ends."""
        read = np.array([axis.sign * values[axis.index] for axis in axes])
        beyond = np.maximum(np.abs(read) - self._layout.deadzone, 0.0) / (1.0 - self._layout.deadzone)
        return np.sign(read) * np.minimum(beyond, 1.0)


class TipSteps:
    """A tip led by shares of ``speed_m_s`` and ``speed_rad_s`` along and about the axes of ``chain``'s base
    (``vla_ros.spaces.kinematics.Chain``, or whatever has its ``poses`` and ``follow``)."""

    def __init__(self, chain: object, period_s: float, speed_m_s: float, speed_rad_s: float) -> None:
        self._chain = chain
        self._period_s = period_s
        self._steps = np.repeat((speed_m_s, speed_rad_s), 3) * period_s

    def __call__(self, positions: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The joints ``[num_joints]`` one period after ``positions``, for ``shares`` ``[6]``: x, y, z, roll, pitch,
        yaw."""
        if not shares.any():
            return positions
        step = shares * self._steps
        pose = self._chain.poses(positions)
        turn, _ = cv2.Rodrigues(step[3:])
        wanted = np.column_stack((turn @ pose[:, :3], pose[:, 3] + step[:3]))
        found = positions[None].copy()
        self._chain.follow(wanted[None], found, positions, self._period_s, with_rotation=True)
        return found[0]
