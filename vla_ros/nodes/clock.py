"""The steady clock, and ROS time stamps mapped to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
MAX_AGE_S = 10.0
MAX_LEAD_S = 0.1
NUM_READINGS = 3
GOOD_READING_NS = 20_000


def steady_now_ns() -> int:
    """Now on the host's steady clock, in ns."""
    return time.monotonic_ns()


@dataclass(frozen=True)
class ClockReading:
    """Both clocks at one instant, in ns."""

    steady_ns: int
    ros_ns: int


def read_clocks(ros_now_ns: Callable[[], int]) -> ClockReading:
    """Both clocks as near to each other as a few tries get: the thread may lose its core between two readings."""
    best, best_gap_ns = None, 0
    for _ in range(NUM_READINGS):
        before_ns = steady_now_ns()
        ros_ns = ros_now_ns()
        gap_ns = steady_now_ns() - before_ns
        if best is None or gap_ns < best_gap_ns:
            best, best_gap_ns = ClockReading(before_ns + gap_ns // 2, ros_ns), gap_ns
        if gap_ns <= GOOD_READING_NS:
            break
    assert best is not None
    return best


def to_steady_ns(stamp_ns: int, now: ClockReading) -> int:
    """A header stamp in ROS time, in ns, on the steady clock.

    Raises ValueError for a stamp that cannot be of this moment.
    """
    age_s = (now.ros_ns - stamp_ns) / NS_PER_S
    if not -MAX_LEAD_S <= age_s <= MAX_AGE_S:
        raise ValueError(
            f"header stamp is {age_s:.3f} s before now; expected {-MAX_LEAD_S:g} to {MAX_AGE_S:g} s: "
            "check the driver's stamps, and the clocks of both machines (use_sim_time too)"
        )
    return now.steady_ns - (now.ros_ns - stamp_ns)
