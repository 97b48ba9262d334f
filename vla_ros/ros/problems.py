"""What is wrong with the inputs right now: a line for each source, logged sparingly and kept for diagnostics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vla_ros.ros.clock import steady_now_ns
from vla_ros.strict import one_line
from vla_ros.topics import Topic
from vla_ros.units import NS_PER_S

REPEAT_LOG_S = 5.0
FORGET_S = 3.0
INFERENCE = "inference"
"""The source of problems after which no result comes."""


@dataclass(frozen=True)
class _Problem:
    line: str
    logged_ns: int
    last_ns: int


class Problems:
    """At most one problem for each source; one that isn't reported again for ``FORGET_S`` is over."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._problems: dict[str, _Problem] = {}
        self._lock = threading.Lock()

    def report(self, source: str, line: str) -> None:
        """Something is wrong with ``source``: logged at once, and again every few seconds while it lasts."""
        now_ns, line = steady_now_ns(), one_line(line)
        with self._lock:
            known = self._problems.get(source)
            is_new = known is None or now_ns - known.logged_ns > REPEAT_LOG_S * NS_PER_S
            self._problems[source] = _Problem(line, now_ns if is_new else known.logged_ns, now_ns)
        if is_new:
            self._logger.warning(line)

    def refusing(self, topic: Topic) -> Callable[[object], None]:
        """Reports why a message on ``topic`` cannot be used."""
        return lambda why: self.report(topic.name.rpartition("/")[2], f"'{topic}' refused: {why}")

    def current(self) -> dict[str, str]:
        """Lines by source."""
        oldest_ns = steady_now_ns() - round(FORGET_S * NS_PER_S)
        with self._lock:
            return {source: problem.line for source, problem in self._problems.items() if problem.last_ns >= oldest_ns}
