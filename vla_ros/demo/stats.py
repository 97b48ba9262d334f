"""The demo's figures out of what was received: control rate and jitter, inference time, age of the observation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla_ros.units import MS_PER_NS


@dataclass(frozen=True)
class Percentiles:
    """In ms; None where nothing was measured."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True)
class ControlStats:
    """Rate and periods of the commands as they arrived while the policy drove; None where fewer than two did."""

    rate_hz: float | None
    period_ms_p50: float | None
    period_ms_p99: float | None
    period_ms_max: float | None


@dataclass
class Recording:
    """What arrived of an episode since ``began_ns``; all but the pictures while the policy drove.

    ``commands`` are joint positions by when they were due, ``states`` those measured, by their stamps, ns of ROS time;
    ``command_ns`` when each command arrived; ``observation_age_ms`` how old the observation behind a command was when
    it arrived, for those that follow a chunk; ``inference_ms`` what each inference took; ``chunk_ns`` when each chunk
    arrived.
    """

    episode: int
    began_ns: int = 0
    command_ns: list[int] = field(default_factory=list)
    commands: list[tuple[int, np.ndarray]] = field(default_factory=list)
    states: list[tuple[int, np.ndarray]] = field(default_factory=list)
    observation_age_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    chunk_ns: list[int] = field(default_factory=list)
    views: list[np.ndarray] = field(default_factory=list)

    def keep_three_views(self) -> None:
        """The first, the middle and the last: all of them, for many episodes, are too many."""
        self.views = [self.views[k] for k in (0, len(self.views) // 2, -1)] if self.views else []


def control_stats(recordings: Sequence[Recording]) -> ControlStats:
    """Over all episodes; the pauses between them do not count."""
    periods = [np.diff(recording.command_ns) * MS_PER_NS for recording in recordings]
    measured = np.concatenate([np.zeros(0), *periods])
    if not len(measured):
        return ControlStats(None, None, None, None)
    spread = percentiles(measured)
    rate_hz, longest = 1e3 / float(measured.mean()), float(measured.max())
    return ControlStats(round(rate_hz, 2), spread.p50, spread.p99, round(longest, 2))


def percentiles(values: Iterable[float]) -> Percentiles:
    """The middle and the worst hundredth of ``values``, in ms."""
    measured = np.fromiter(values, dtype=np.float64)
    if not len(measured):
        return Percentiles(None, None)
    p50, p99 = np.percentile(measured, [50, 99])
    return Percentiles(round(float(p50), 2), round(float(p99), 2))
