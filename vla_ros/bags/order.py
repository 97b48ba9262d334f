"""Messages in the order of their stamps, which is nearly but not quite the order they are written in."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from vla_ros.bags.storage import RawMessage
from vla_ros.units import NS_PER_S

# A recorder may look at one topic this much later than at another.
WINDOW_NS = NS_PER_S
MAX_HELD_BYTES = 1 << 27


def in_time_order(messages: Iterable[RawMessage], on_late: Callable[[RawMessage, int], None]) -> Iterator[RawMessage]:
    """``messages`` sorted by stamp, as far as ``WINDOW_NS`` and ``MAX_HELD_BYTES`` of them allow.

    One that comes later than that goes to ``on_late``, with the ns by which it is behind, and is left out. A single
    stamp far ahead holds nothing up: it waits for its time.
    """
    waiting: list[tuple[int, int, RawMessage]] = []
    num_bytes, latest_ns = 0, 0
    for number, message in enumerate(messages):
        stamp_ns = message.stamp_ns
        if stamp_ns < latest_ns:
            on_late(message, latest_ns - stamp_ns)
            continue
        heapq.heappush(waiting, (stamp_ns, number, message))
        num_bytes += len(message.data)
        while waiting[0][0] <= stamp_ns - WINDOW_NS or num_bytes > MAX_HELD_BYTES:
            latest_ns, _, first = heapq.heappop(waiting)
            num_bytes -= len(first.data)
            yield first
            if not waiting:
                break
    while waiting:
        yield heapq.heappop(waiting)[2]
