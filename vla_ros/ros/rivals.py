"""Who else publishes what must come from one: a second policy node, model node or driver on one robot.

The rule. On a topic that a node publishes itself (commands, mode) every other publisher is a rival from the moment
discovery shows it, even a silent one. On one that it hears (joint states, the model's status) only who is
heard is a rival: discovery shows a killed node until its lease ends (20 s with Fast DDS), and the one started in its
place is no rival of it. A publisher numbers its messages upward, so one step back is a restart, and several in
``WINDOW_S`` are two publishers that talk in turn. A policy node started again after a kill never learns of its own dead
twin, which doesn't announce itself any more: it can be active ``DISCOVERY_S`` after its start, when it knows of the
living.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.problems import Problems
from vla_ros.units import NS_PER_S

if TYPE_CHECKING:
    from rclpy.node import Node

LOOK_PERIOD_S = 0.2
DISCOVERY_S = 2.0
WINDOW_S = 1.0
FORGET_S = 1.0
NUM_STEPS_BACK = 3
UNKNOWN, NAMELESS = "_NODE_NAME_UNKNOWN_", "a node not known by name yet"
NO_SEQUENCE = 2**64 - 1
"""What a middleware says that doesn't number messages: where it doesn't, nobody is found by what is heard."""


def is_numbered(sequence: Any) -> bool:
    """Whether that is a message's number; a middleware may give none."""
    return sequence is not None and sequence < NO_SEQUENCE


class Turns:
    """Whether the messages about something are several publishers', who talk in turn."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._back_ns: deque[int] = deque(maxlen=NUM_STEPS_BACK)

    def heard(self, sequence: int, keys: Iterable[str], now_ns: int) -> bool:
        """A message about ``keys``, such as joints, came with this number at ``now_ns``; publishers of other keys are
        no rivals."""
        keys = tuple(keys)
        if any(sequence <= self._last.get(key, -1) for key in keys):
            self._back_ns.append(now_ns)
        self._last.update(dict.fromkeys(keys, sequence))
        return len(self._back_ns) == NUM_STEPS_BACK and now_ns - self._back_ns[0] <= WINDOW_S * NS_PER_S


class Rivals:
    """What was found of them, told to ``problems``, too, and named by the graph as ``node`` sees it."""

    def __init__(self, node: Node, problems: Problems) -> None:
        self._node = node
        self._problems = problems
        self._turns: defaultdict[str, Turns] = defaultdict(Turns)
        self._line, self._found_ns = "", 0
        self._since_ns = steady_now_ns()

    @property
    def line(self) -> str:
        """Who publishes what must come from one; empty where that is over for ``FORGET_S``."""
        return self._line if steady_now_ns() - self._found_ns <= FORGET_S * NS_PER_S else ""

    def check(self, *topics: str) -> None:
        """As ``look``, once others have had the time to be discovered. Raises ValueError where there is a rival."""
        self.look(*topics)
        while not self.line and steady_now_ns() - self._since_ns < DISCOVERY_S * NS_PER_S:
            time.sleep(LOOK_PERIOD_S / 4)
            self.look(*topics)
        if self.line:
            raise ValueError(self.line)

    def look(self, *topics: str) -> None:
        """At who publishes topics that the node itself publishes, once each."""
        for topic in topics:
            if self._node.count_publishers(topic) > 1:
                self._found(topic)

    def hear(self, topic: str, sequence: Any, keys: Iterable[str] = ("",)) -> None:
        """A message about ``keys`` came on ``topic`` with this number, by its publisher's count; None where nobody
        counts."""
        now_ns = steady_now_ns()
        if is_numbered(sequence) and self._turns[topic].heard(sequence, keys, now_ns):
            self._found(topic)

    def _found(self, topic: str) -> None:
        topic = self._node.resolve_topic_name(topic)
        publishers = self._node.get_publishers_info_by_topic(topic)
        names = sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in publishers)
        names = [NAMELESS if UNKNOWN in name else name for name in names]
        got = f"'{topic}' has {len(names)} publishers: {', '.join(names)}"
        self._line, self._found_ns = f"{got}; expected one for this robot: end the others", steady_now_ns()
        self._problems.report(f"publishers of {topic}", self._line)
