"""Whether a bag's commands come at the rate of the loop that repeats them."""

from __future__ import annotations

from array import array

import numpy as np

from vla_ros.units import NS_PER_S

MIN_GAPS = 10


class CommandRate:
    """Hears when the commands to each group of joints were sent."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._last_ns: dict[str, int] = {}
        self._gaps_ns: dict[str, array[int]] = {}

    def fits(self, group: str, sent_ns: int) -> bool:
        """Whether a command comes a period after the one before it to its ``group``, give or take a quarter, or is the
        first: then it tells when a tick was."""
        last_ns = self._last_ns.get(group)
        self._last_ns[group] = sent_ns
        if last_ns is None:
            return True
        self._gaps_ns.setdefault(group, array("q")).append(sent_ns - last_ns)
        return self._is_period(sent_ns - last_ns)

    @property
    def problem(self) -> str:
        """The first group whose commands come at another rate, in one line; empty where there is none."""
        for group, gaps_ns in self._gaps_ns.items():
            usual_ns = float(np.median(np.frombuffer(gaps_ns, np.int64)))
            if len(gaps_ns) >= MIN_GAPS and not self._is_period(usual_ns):
                found_hz, ours_hz = NS_PER_S / max(usual_ns, 1.0), NS_PER_S / self._period_ns
                return (
                    f"commands to '{group}' come at about {found_hz:.3g} Hz and ours at {ours_hz:.3g} Hz, so they are "
                    "for other moments; --rate HZ, or control_rate_hz in the robot file, makes them the same"
                )
        return ""

    def _is_period(self, gap_ns: float) -> bool:
        return abs(gap_ns - self._period_ns) <= self._period_ns / 4
