"""``builtin_interfaces`` Time and Duration to and from integer nanoseconds, and which header stamps can be true."""

from __future__ import annotations

from typing import Any

from vla_ros.units import NS_PER_S

MAX_AGE_S = 10.0
MAX_LEAD_S = 0.1
# A trajectory may be stamped with when it is to start.
MAX_START_LEAD_S = 2.0


def time_to_ns(time: Any) -> int:
    """A Time or Duration message (``sec``, ``nanosec``) in ns."""
    return time.sec * NS_PER_S + time.nanosec


def fill_time(time: Any, value_ns: int) -> None:
    """Write ``value_ns`` into a Time or Duration message; Time holds 0 to 2**31 seconds."""
    time.sec, time.nanosec = divmod(int(value_ns), NS_PER_S)


def check_stamp(stamp_ns: int, received_ns: int, max_lead_s: float = MAX_LEAD_S) -> None:
    """Raises ValueError for a header stamp that cannot be of a message received at ``received_ns``, both in ROS
    time."""
    age_s = (received_ns - stamp_ns) / NS_PER_S
    if not -max_lead_s <= age_s <= MAX_AGE_S:
        got = f"header stamp is {abs(age_s):.3f} s {'before' if age_s > 0 else 'after'} now"
        raise ValueError(
            f"{got}; expected at most {MAX_AGE_S:g} s before it or {max_lead_s:g} s after: "
            "check the driver's stamps, and the clocks of both machines (use_sim_time too)"
        )
