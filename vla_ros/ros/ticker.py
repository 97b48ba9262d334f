"""A thread that calls at absolute deadlines on the steady clock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.threads import ended
from vla_ros.units import NS_PER_S


class Ticker:
    """Calls ``tick(deadline_ns)`` once every period until stopped; a deadline missed by a whole period is left out.

    With a ``realtime_priority`` above 0 the thread asks for SCHED_FIFO: on a busy machine that is what keeps it steady.
    """

    def __init__(self, period_ns: int, tick: Callable[[int], None], realtime_priority: int = 0) -> None:
        self.is_realtime = False
        self._period_ns = period_ns
        self._tick = tick
        self._realtime_priority = realtime_priority
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Returns when the thread runs, and ``is_realtime`` says at which priority."""
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """Returns when the last tick has ended."""
        self._stopping.set()
        ended(self._thread)

    def _run(self) -> None:
        if self._realtime_priority:
            self.is_realtime = _become_realtime(self._realtime_priority)
        self._started.set()
        deadline_ns = steady_now_ns() + self._period_ns
        while not self._stopping.is_set():
            time.sleep(max(deadline_ns - steady_now_ns(), 0) / NS_PER_S)
            late_ns = steady_now_ns() - deadline_ns
            deadline_ns += max(late_ns, 0) // self._period_ns * self._period_ns
            self._tick(deadline_ns)
            deadline_ns += self._period_ns


def _become_realtime(priority: int) -> bool:
    """Whether the system lets the calling thread run at a real-time priority."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return False
    return True
