"""Who drives the robot, and why."""

from __future__ import annotations

from collections.abc import Mapping

from vla_ros import topics
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

QUIET_S = 5.0
"""What goes wrong again sooner, as joint states that jump to and fro, is one trouble and needs one line."""


class Handoff:
    """The mode, the reason for it, and the changes since they were last read."""

    def __init__(self) -> None:
        self._mode = Mode.HOLD
        self._why = "just started"
        self._is_faulty = False
        self._is_pressed = False
        self._troubles: dict[str, str] = {}
        self._seen_ns: dict[str, int] = {}
        self._changes: list[str] = []

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def why(self) -> str:
        """What led to the present mode, and what has gone wrong since, in one line."""
        return "; ".join((self._why, *self._troubles.values()))

    @property
    def is_faulty(self) -> bool:
        """Whether a fault, and no person, led to the present mode, or something has gone wrong since."""
        return self._is_faulty or bool(self._troubles)

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

    def trouble(self, lines: Mapping[str, str], now_ns: int) -> None:
        """What is wrong now although nobody drives, a line for each kind; it stays named until the mode changes."""
        for kind, line in lines.items():
            if kind not in self._seen_ns or now_ns - self._seen_ns[kind] > QUIET_S * NS_PER_S:
                self.note(f"{self._mode.value}: {line}")
            self._seen_ns[kind] = now_ns
        self._troubles |= lines

    def settled(self, kind: str, outcome: str) -> None:
        """What has become of it."""
        self._seen_ns.pop(kind, None)
        if kind in self._troubles:
            self._troubles[kind] += f"; {outcome}"
        self.note(f"{self._mode.value}: {outcome}")

    def _set(self, mode: Mode, why: str, is_fault: bool) -> None:
        self._mode, self._why, self._is_faulty = mode, why, is_fault
        self._troubles, self._seen_ns = {}, {}
        self._changes.append(f"{mode.value}: {why}")
