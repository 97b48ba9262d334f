"""The steady clock, and ROS time stamps mapped to it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from vla_ros.messages.times import MAX_LEAD_S, check_stamp

if TYPE_CHECKING:
    from rclpy.clock import Clock

NUM_READINGS = 3
GOOD_READING_NS = 20_000
NUM_OFFSETS = 64
MAX_DRIFT_NS = 5_000_000


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
    readings: list[tuple[int, ClockReading]] = []
    for _ in range(NUM_READINGS):
        before_ns, ros_ns, after_ns = steady_now_ns(), ros_now_ns(), steady_now_ns()
        gap_ns = after_ns - before_ns
        readings.append((gap_ns, ClockReading(before_ns + gap_ns // 2, ros_ns)))
        if gap_ns <= GOOD_READING_NS:
            break
    return min(readings, key=itemgetter(0))[1]


def to_steady_ns(stamp_ns: int, now: ClockReading, max_lead_s: float = MAX_LEAD_S) -> int:
    """A header stamp in ROS time, in ns, on the steady clock.

    Raises ValueError for a stamp that cannot be of this moment.
    """
    check_stamp(stamp_ns, now.ros_ns, max_lead_s)
    return now.steady_ns - (now.ros_ns - stamp_ns)


class StampMap:
    """ROS time and the steady clock of one node, each by the other; for use by any thread.

    Simulated time stands still between two messages of ``/clock``: the reading right after one is the true one, and the
    offset found so is kept until the clocks drift apart, so that stamps keep their distances to the nanosecond and a
    replay sees what an earlier one saw.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._offsets: deque[int] = deque(maxlen=NUM_OFFSETS)
        self._offset_ns = 0

    def to_steady_ns(self, stamp_ns: int, max_lead_s: float = MAX_LEAD_S) -> int:
        """A header stamp in ROS time, ns, on the steady clock; raises ValueError for one that cannot be of this
        moment."""
        return to_steady_ns(stamp_ns, self._read(), max_lead_s)

    def to_ros_ns(self, steady_ns: int) -> int:
        """A moment not long ago on the steady clock, in ROS time."""
        now = self._read()
        return now.ros_ns + steady_ns - now.steady_ns

    def forget(self) -> None:
        """ROS time has jumped."""
        with self._lock:
            self._offsets.clear()

    def _read(self) -> ClockReading:
        now = read_clocks(lambda: self._clock.now().nanoseconds)
        if not self._clock.ros_time_is_active:
            return now
        with self._lock:
            is_first = not self._offsets
            self._offsets.append(now.steady_ns - now.ros_ns)
            smallest = min(self._offsets)
            if is_first or abs(smallest - self._offset_ns) > MAX_DRIFT_NS:
                self._offset_ns = smallest
            return ClockReading(now.steady_ns, now.steady_ns - self._offset_ns)
