"""Who drives the robot, and why."""

from __future__ import annotations

from vla_ros import topics
from vla_ros.types import Mode


class Handoff:
    """The mode, the reason for it, and the changes since they were last read."""

    def __init__(self) -> None:
        self._mode = Mode.HOLD
        self._why = "just started"
        self._is_faulty = False
        self._is_pressed = False
        self._changes: list[str] = []

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def why(self) -> str:
        """What led to the present mode, in one line."""
        return self._why

    @property
    def is_faulty(self) -> bool:
        """Whether a fault, and no person, led to the present mode."""
        return self._is_faulty

    def change(self, mode: Mode, why: str, is_fault: bool = False) -> None:
        """Give the robot to ``mode``; while it has it already, the first reason stays, and ESTOP stays whatever
        comes."""
        if mode is self._mode or self._mode is Mode.ESTOP:
            return
        self._set(mode, why, is_fault)

    def press_estop(self, is_pressed: bool) -> None:
        """What the emergency stop's topic says now; letting it go does not reset it."""
        self._is_pressed = is_pressed
        if is_pressed:
            self.change(Mode.ESTOP, f"emergency stop on '{topics.ESTOP}'")

    def reset_estop(self) -> str:
        """From ESTOP to HOLD. Returns the reason for a refusal, empty where it succeeds or there was nothing to
        reset."""
        if self._is_pressed:
            return f"'{topics.ESTOP}' is still true; publish false first"
        if self._mode is Mode.ESTOP:
            self._set(Mode.HOLD, "emergency stop reset", False)
        return ""

    def take_changes(self) -> tuple[str, ...]:
        """One line for every change of mode since the last call."""
        changes, self._changes = tuple(self._changes), []
        return changes

    def note(self, line: str) -> None:
        """Note something else worth a line."""
        self._changes.append(line)

    def _set(self, mode: Mode, why: str, is_fault: bool) -> None:
        self._mode, self._why, self._is_faulty = mode, why, is_fault
        self._changes.append(f"{mode.value}: {why}")
