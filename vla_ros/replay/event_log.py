"""What would have happened on the robot, event by event."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vla_ros.replay.records import Incident

_NUMBER = re.compile(r"-?\d[\d.]*")


class EventLog:
    """Events in the order of time; commands in a row that one limit of one joint bounds are one event."""

    def __init__(self, joint_names: Sequence[str]) -> None:
        self._joint_names = joint_names
        self._events: list[Incident] = []
        self._bound = ("", "")
        self._bound_at = 0

    @property
    def events(self) -> tuple[Incident, ...]:
        return tuple(self._events)

    def stopped(self, now_ns: int, line: str) -> None:
        """A watchdog let go or braked."""
        self._events.append(Incident(now_ns, "watchdog", line))

    def refused(self, now_ns: int, line: str) -> None:
        """An image, an answer or a human's message could not be used."""
        self._events.append(Incident(now_ns, "processor", line))

    def commanded(self, now_ns: int, reason: str) -> None:
        """A command, and the limit that bounded it: empty where none did."""
        joint = next((name for name in self._joint_names if f"'{name}'" in reason), "")
        bound = joint, _NUMBER.sub("#", reason)
        if reason and bound == self._bound:
            event = self._events[self._bound_at]
            self._events[self._bound_at] = replace(event, num_times=event.num_times + 1)
        elif reason:
            self._bound_at = len(self._events)
            self._events.append(Incident(now_ns, "limit", reason, joint))
        self._bound = bound
