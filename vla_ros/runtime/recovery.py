"""Faults that the policy brakes for and goes on after, where the robot file says so."""

from __future__ import annotations

from vla_ros.observing.freshness import Fault
from vla_ros.robot.parts import WatchdogConfig
from vla_ros.units import NS_PER_S

UNTIL_ANSWERED = ("result", "answer", "chunk")
"""Kinds of faults that are over when an answer is followed."""


class Recovery:
    """``cause`` is what is braked for now, None where nothing is."""

    def __init__(self, watchdogs: WatchdogConfig, period_s: float) -> None:
        """Ticks are ``period_s`` apart."""
        self.cause: Fault | None = None
        self._watchdogs = watchdogs
        self._period_s = period_s
        self._since_ns = 0

    def begin(self, cause: Fault, now_ns: int) -> None:
        self.cause, self._since_ns = cause, now_ns

    def end(self) -> None:
        self.cause = None

    @property
    def may_ask(self) -> bool:
        """Whether the policy is asked meanwhile."""
        return self.cause is None or self.cause.kind in UNTIL_ANSWERED

    def allows(self, fault: Fault, now_ns: int) -> bool:
        """Whether ``fault`` may be braked through: by its kind, and as long as it hasn't lasted too long."""
        if self.needs_human(fault) or (self.cause is not None and self.lasts_too_long(now_ns)):
            return False
        # After a jump of the clock sensors are silent for a moment: that is part of it.
        kind = "clock" if self.cause is not None and self.cause.kind == "clock" else fault.kind
        return self._watchdogs.action(kind) == "recover"

    def needs_human(self, fault: Fault) -> bool:
        """Whether nobody watched over the robot for so long that going on by itself is out of the question."""
        # Missed ticks are counted: the absence was up to two periods longer.
        absence_s = (fault.age_s or 0.0) + 2 * self._period_s
        return fault.kind == "overrun" and absence_s > self._watchdogs.max_recovery_s

    def lasts_too_long(self, now_ns: int) -> bool:
        return now_ns - self._since_ns > self._watchdogs.max_recovery_s * NS_PER_S

    def is_over(self, is_answered: bool) -> bool:
        """To be called when nothing is wrong; that some faults are over shows by an answer only."""
        return self.cause is not None and (is_answered or self.cause.kind not in UNTIL_ANSWERED)
