"""``builtin_interfaces`` Time and Duration to and from integer nanoseconds."""

from __future__ import annotations

from typing import Any

from vla_ros.units import NS_PER_S


def time_to_ns(time: Any) -> int:
    """A Time or Duration message (``sec``, ``nanosec``) in ns."""
    return time.sec * NS_PER_S + time.nanosec


def fill_time(time: Any, value_ns: int) -> None:
    """Write ``value_ns`` into a Time or Duration message; Time holds 0 to 2**31 seconds."""
    time.sec, time.nanosec = divmod(int(value_ns), NS_PER_S)
