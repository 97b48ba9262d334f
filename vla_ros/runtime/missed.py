"""Ticks that did not come."""

from __future__ import annotations


class MissedTicks:
    """How many ticks, ``period_ns`` apart, were missed before each; commands that are stamped with their tick are
    followed as if they had come in time."""

    def __init__(self, period_ns: int, is_stamped: bool) -> None:
        self._period_ns = period_ns
        self._is_stamped = is_stamped
        self._last_ns: int | None = None
        self._sent_late_ns = 0

    def before(self, now_ns: int) -> int:
        """How many there were since the last one, of which this is told."""
        last_ns, self._last_ns = self._last_ns, now_ns
        return 0 if last_ns is None else max(0, round((now_ns - last_ns) / self._period_ns) - 1)

    def sent(self, now_ns: int) -> None:
        """The last tick's command went out, maybe long after its tick. Without a stamp the robot begins with it only
        now: ticks that were missed until now are not made up for, or it would be hurried."""
        if self._last_ns is not None and now_ns > self._last_ns and not self._is_stamped:
            self._sent_late_ns = now_ns - self._last_ns
            self._last_ns = now_ns

    def take_late_ns(self) -> int:
        """How late the last command went out."""
        late_ns, self._sent_late_ns = self._sent_late_ns, 0
        return late_ns
