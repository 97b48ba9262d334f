"""How a bag is replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.strict import check_choice, quoted, read_text

MAX_RATE_HZ = 1000.0
OF_SETS = ("set_space", "set_cameras")
"""Nothing of a replay of bags depends on them."""


@dataclass(frozen=True)
class ReplaySettings:
    """``control_rate_hz`` 0 is the robot file's. An answer takes ``latency_ms`` after its request; None: as long as the
    recorded policy's took, and ``unknown_latency_ms`` where a bag holds no chunk of one (None: such a bag is
    refused). ``namespace`` is the one bags were recorded in. What the numbers of LeRobot data sets mean is said by
    ``set_space``, a preset or a file (empty: as they say themselves), and which of the robot's cameras theirs are by
    ``set_cameras``, such as ``top=front, hand=wrist``."""

    strategy: str = "latest"
    control_rate_hz: float = 0.0
    latency_ms: float | None = None
    unknown_latency_ms: float | None = None
    result_timeout_s: float = 1.0
    handoff_ramp_s: float = 0.2
    namespace: str = ""
    set_space: str = ""
    set_cameras: str = ""

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, STRATEGIES)
        if not 0.0 <= self.control_rate_hz <= MAX_RATE_HZ:
            raise ValueError(
                f"control rate is {self.control_rate_hz:g} Hz; expected 0 (the robot file's) to {MAX_RATE_HZ:g}"
            )

    @property
    def cameras_of_sets(self) -> dict[str, str]:
        """The robot's camera by a set's. Raises ValueError for something else than pairs."""
        pairs = [text.strip().partition("=") for text in self.set_cameras.split(",") if text.strip()]
        unfit = [key for key, _, name in pairs if not name]
        if unfit:
            raise ValueError(f"--camera is '{quoted(unfit[0])}'; expected FEATURE=NAME")
        return {key: name for key, _, name in pairs}

    def stored(self) -> dict[str, Any]:
        """By name, as a result keeps them: those of data sets where they are given, and what a file of a space says, by
        its SHA-256. Raises ValueError for a file that can't be read."""
        values = {name: value for name, value in vars(self).items() if value or name not in OF_SETS}
        file = Path(self.set_space).expanduser()
        if self.set_space and file.is_file():
            values["set_space_digest"] = hashlib.sha256(read_text(file).encode()).hexdigest()
        return values


def from_stored(stored: Mapping[str, Any], where: str = "baseline") -> ReplaySettings:
    """The settings that a stored result was made with; ``where`` is what to call it.

    Raises ValueError for a setting that it lacks.
    """
    names = [field.name for field in fields(ReplaySettings)]
    missing = [name for name in names if name not in stored and name not in OF_SETS]
    if missing:
        raise ValueError(
            f"{where}: setting '{missing[0]}' is missing; expected all of {', '.join(names[:-1])} and {names[-1]}: "
            "write it anew with --update-baseline"
        )
    return ReplaySettings(**{name: stored[name] for name in names if name in stored})
