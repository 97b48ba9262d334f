"""A thread that calls at absolute deadlines on the steady clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vla_ros.nodes.clock import NS_PER_S, steady_now_ns


class Ticker:
    """Calls ``tick(deadline_ns)`` once every period until stopped; a deadline missed by a whole period is left out."""

    def __init__(self, period_ns: int, tick: Callable[[int], None]) -> None:
        self._period_ns = period_ns
        self._tick = tick
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last tick has ended."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        deadline_ns = steady_now_ns() + self._period_ns
        while not self._stopping.is_set():
            time.sleep(max(deadline_ns - steady_now_ns(), 0) / NS_PER_S)
            late_ns = steady_now_ns() - deadline_ns
            deadline_ns += max(late_ns, 0) // self._period_ns * self._period_ns
            self._tick(deadline_ns)
            deadline_ns += self._period_ns
