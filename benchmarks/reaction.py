"""What benchmarks of live nodes share: a ROS domain of their own, and the time from a message to the first command of
who drives then."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np


def use_own_domain() -> None:
    """This machine only, and in nobody else's way; a child knows it through the environment."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class Reaction:
    """Times by the senders' own stamps: from a message to the first command after the node's mode has changed."""

    def __init__(self) -> None:
        self.mode = ""
        self.changed = threading.Condition()
        self._awaited: tuple[str, ...] = ()
        self._changed_ns = self._commanded_ns = 0

    def wait_for(self, is_so: Callable[[], bool], patience_s: float) -> bool:
        """Whether something that is heard became true in time."""
        with self.changed:
            return self.changed.wait_for(is_so, patience_s)

    def time_s(self, send: Callable[[], None], modes: tuple[str, ...], patience_s: float) -> float | None:
        """From ``send`` to the first command in one of ``modes``, s; None where none was heard in time."""
        with self.changed:
            self._awaited, self._changed_ns, self._commanded_ns = modes, 0, 0
            sent_ns = time.time_ns()
            send()
            if not self.changed.wait_for(lambda: self._commanded_ns, patience_s):
                return None
            return (self._commanded_ns - sent_ns) * 1e-9

    def heard_mode(self, mode: str, sent_ns: int) -> None:
        with self.changed:
            if mode in self._awaited and not self._changed_ns:
                self._changed_ns = sent_ns
            self.mode = mode
            self.changed.notify_all()

    def heard_command(self, sent_ns: int) -> None:
        with self.changed:
            # A mode is published before the first command of who has it.
            if self._changed_ns and sent_ns >= self._changed_ns and not self._commanded_ns:
                self._commanded_ns = sent_ns
            self.changed.notify_all()


def summary(delays_s: Sequence[float]) -> dict[str, float]:
    """Of how many, and ms."""
    p50, p99 = np.percentile(delays_s, (50, 99)) * 1e3
    return {
        "num": len(delays_s),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(1e3 * max(delays_s), 2),
    }
