"""Who drives the robot, and why."""

from __future__ import annotations

from enum import Enum


class Mode(str, Enum):
    """``HOLD`` keeps the last command; ``POLICY`` follows the policy's chunks."""

    HOLD = "HOLD"
    POLICY = "POLICY"


class Handoff:
    """The mode, the reason for it, and the changes since they were last read."""

    def __init__(self) -> None:
        self._mode = Mode.HOLD
        self._why = "just started"
        self._is_faulty = False
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
        """Give the robot to ``mode``; while it has it already, the first reason stays."""
        if mode is self._mode:
            return
        self._mode, self._why, self._is_faulty = mode, why, is_fault
        self._changes.append(f"{mode.value}: {why}")

    def take_changes(self) -> tuple[str, ...]:
        """One line for every change of mode since the last call."""
        changes, self._changes = tuple(self._changes), []
        return changes
