"""How one task goes, from what is heard of the robot alone: no ROS, no clock."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vla_ros.types import Mode, check_task

STILL = 0.02
"""What a joint may move within ``standstill_s``, rad or m, of an arm that stands still."""


class Ending(StrEnum):
    """As the action's result names it."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    TAKEN_OVER = "taken_over"
    CANCELED = "canceled"


@dataclass(frozen=True)
class Goal:
    """What is asked for; see ``vla_ros_msgs/action/RunTask``. Raises ValueError for what can't be meant."""

    instruction: str
    timeout_s: float = 0.0
    success_topic: str = ""
    standstill_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise ValueError("instruction is empty; expected what the policy is to do")
        check_task(self.instruction)
        for name in ("timeout_s", "standstill_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value:g}; expected seconds, or 0 for none")


@dataclass(frozen=True)
class Outcome:
    """How a task ended, and why in one line."""

    ending: Ending
    reason: str


class TaskRun:
    """A task whose instruction is known and whose policy has been engaged. Times are seconds on one steady clock."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._began_s: float | None = None
        self._is_done = False
        self._positions: deque[tuple[float, np.ndarray]] = deque()

    def seconds(self, now_s: float) -> float:
        """For how long the policy has driven."""
        return 0.0 if self._began_s is None else now_s - self._began_s

    def done(self) -> None:
        """The success topic said so."""
        self._is_done = True

    def see(self, now_s: float, positions: np.ndarray) -> None:
        """Measured joint positions ``[num_joints]``."""
        if self._began_s is not None:
            self._positions.append((now_s, positions))
            # One that is older than the span stays: without it the span isn't covered.
            while len(self._positions) > 1 and self._positions[1][0] <= now_s - self._goal.standstill_s:
                self._positions.popleft()

    def step(self, now_s: float, mode: str, why: str) -> Outcome | None:
        """How it has ended, None while it goes on; ``mode`` is who drives, ``why`` the policy node's word on it."""
        goal = self._goal
        if mode == Mode.POLICY and self._began_s is None:
            self._began_s = now_s
        if mode == Mode.TELEOP:
            return Outcome(Ending.TAKEN_OVER, why or "a human drives")
        if mode == Mode.ESTOP or (mode == Mode.HOLD and self._began_s is not None):
            return Outcome(Ending.FAILURE, f"{mode}: {why}" if why else mode)
        if self._began_s is None:
            return None
        if self._is_done:
            return Outcome(Ending.SUCCESS, f"'{goal.success_topic}' says so")
        if goal.standstill_s and self._stands(now_s):
            return Outcome(Ending.SUCCESS, f"the arm has stood still for {goal.standstill_s:g} s")
        if goal.timeout_s and self.seconds(now_s) >= goal.timeout_s:
            return Outcome(Ending.TIMEOUT, f"not done after {goal.timeout_s:g} s")
        return None

    def _stands(self, now_s: float) -> bool:
        if not self._positions or self._positions[0][0] > now_s - self._goal.standstill_s:
            return False
        seen = np.stack([positions for _, positions in self._positions])
        return bool((np.ptp(seen, axis=0) <= STILL).all())
