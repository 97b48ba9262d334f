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
class Drive:
    """What was measured while the policy drove one episode.

    ``command_ns`` are arrivals of commands in ns; ``observation_age_ms`` how old the observation behind a command was
    when it arrived, for those that follow a chunk; ``inference_ms`` what each inference took.
    """

    command_ns: list[int] = field(default_factory=list)
    observation_age_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)


def control_stats(drives: Sequence[Drive]) -> ControlStats:
    """Over all drives; the pauses between them do not count."""
    periods = np.concatenate([np.diff(drive.command_ns) for drive in drives] or [np.zeros(0)]) * MS_PER_NS
    if not len(periods):
        return ControlStats(None, None, None, None)
    p50, p99 = np.percentile(periods, [50, 99])
    return ControlStats(
        rate_hz=round(1e3 / float(periods.mean()), 2),
        period_ms_p50=round(float(p50), 2),
        period_ms_p99=round(float(p99), 2),
        period_ms_max=round(float(periods.max()), 2),
    )


def percentiles(values: Iterable[float]) -> Percentiles:
    """The middle and the worst hundredth of ``values``, in ms."""
    measured = np.fromiter(values, dtype=np.float64)
    if not len(measured):
        return Percentiles(None, None)
    p50, p99 = np.percentile(measured, [50, 99])
    return Percentiles(round(float(p50), 2), round(float(p99), 2))
