"""Whether a header stamp can be of the moment its message came."""

from __future__ import annotations

from vla_ros.units import NS_PER_S

MAX_AGE_S = 10.0
MAX_LEAD_S = 0.1
# A trajectory may be stamped with when it is to start.
MAX_START_LEAD_S = 2.0


def check_stamp(stamp_ns: int, received_ns: int, max_lead_s: float = MAX_LEAD_S) -> None:
    """Raises ValueError for a header stamp that cannot be of a message received at ``received_ns``, both in ROS
    time."""
    age_s = (received_ns - stamp_ns) / NS_PER_S
    if not -max_lead_s <= age_s <= MAX_AGE_S:
        raise ValueError(
            f"header stamp is {age_s:.3f} s before now; expected {-max_lead_s:g} to {MAX_AGE_S:g} s: "
            "check the driver's stamps, and the clocks of both machines (use_sim_time too)"
        )
