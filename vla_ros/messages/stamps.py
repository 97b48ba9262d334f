"""Whether a header stamp can be of the moment its message came."""

from __future__ import annotations

from vla_ros.units import NS_PER_S

MAX_AGE_S = 10.0
MAX_LEAD_S = 0.1


def check_stamp(stamp_ns: int, received_ns: int) -> None:
    """Raises ValueError for a header stamp that cannot be of a message received at ``received_ns``, both in ROS
    time."""
    age_s = (received_ns - stamp_ns) / NS_PER_S
    if not -MAX_LEAD_S <= age_s <= MAX_AGE_S:
        raise ValueError(
            f"header stamp is {age_s:.3f} s before now; expected {-MAX_LEAD_S:g} to {MAX_AGE_S:g} s: "
            "check the driver's stamps, and the clocks of both machines (use_sim_time too)"
        )
