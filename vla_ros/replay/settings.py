"""How a bag is replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.strict import check_choice

MAX_RATE_HZ = 1000.0


@dataclass(frozen=True)
class ReplaySettings:
    """``control_rate_hz`` 0 is the robot file's. An answer takes ``latency_ms`` after its request; None: as long as the
    recorded policy's took, and ``unknown_latency_ms`` where a bag holds no chunk of one (None: such a bag is
    refused). ``namespace`` is the one bags were recorded in."""

    strategy: str = "latest"
    control_rate_hz: float = 0.0
    latency_ms: float | None = None
    unknown_latency_ms: float | None = None
    result_timeout_s: float = 1.0
    handoff_ramp_s: float = 0.2
    namespace: str = ""

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, STRATEGIES)
        if not 0.0 <= self.control_rate_hz <= MAX_RATE_HZ:
            raise ValueError(
                f"control rate is {self.control_rate_hz:g} Hz; expected 0 (the robot file's) to {MAX_RATE_HZ:g}"
            )


def from_stored(stored: Mapping[str, Any], where: str = "baseline") -> ReplaySettings:
    """The settings that a stored result was made with; ``where`` is what to call it.

    Raises ValueError for a setting that it lacks.
    """
    names = [field.name for field in fields(ReplaySettings)]
    missing = [name for name in names if name not in stored]
    if missing:
        raise ValueError(
            f"{where}: setting '{missing[0]}' is missing; expected all of {', '.join(names[:-1])} and {names[-1]}: "
            "write it anew with --update-baseline"
        )
    return ReplaySettings(**{name: stored[name] for name in names})
