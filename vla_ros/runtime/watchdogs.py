"""What can go wrong while somebody drives, each with its age and limit; for the sensors: ``observing.freshness``."""

from __future__ import annotations

from vla_ros.observing.freshness import Fault
from vla_ros.robot import RobotConfig


def overrun_fault(robot: RobotConfig, missed_s: float) -> Fault | None:
    """Control ticks that did not come for ``missed_s``."""
    limit_s = min(robot.watchdogs.max_overrun_s, robot.watchdogs.max_recovery_s)
    if missed_s <= limit_s:
        return None
    line = f"the control thread did not run for {missed_s:.2f} s; expected at most {limit_s:g} s"
    return Fault("overrun", line, missed_s, limit_s)


def result_fault(why: str, waited_s: float, limit_s: float) -> Fault | None:
    """A result that has been waited for too long; ``why`` says what for."""
    if waited_s <= limit_s:
        return None
    return Fault("result", f"{why}; waited {waited_s:.2f} s, expected at most {limit_s:g} s", waited_s, limit_s)


def silence_fault(topic: str, silence_s: float, limit_s: float) -> Fault | None:
    """A human who drives and says nothing on ``topic``."""
    if silence_s <= limit_s:
        return None
    line = f"nothing came on '{topic}' for {silence_s:.2f} s; expected within {limit_s:g} s"
    return Fault("teleop", line, silence_s, limit_s)
