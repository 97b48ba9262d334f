"""What a ``sim/reset`` message asks for and a ``sim/episode`` message says; both are JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

from vla_ros.strict import parse_config


@dataclass(frozen=True)
class ResetRequest:
    """Which evaluation scene to start; an instruction or a target block other than the scene's own, if given."""

    seed: int
    instruction: str | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"sim/reset.seed is {self.seed}; expected a whole number from 0 on")


@dataclass(frozen=True)
class EpisodeStatus:
    """``status`` is running, success, wrong_block or timeout; ``episode`` counts the resets."""

    seed: int
    instruction: str
    target: str
    status: str
    elapsed_s: float
    episode: int

    @property
    def is_success(self) -> bool:
        return self.status == "success"

    @property
    def outcome(self) -> str:
        """For people to read."""
        return self.status.replace("_", " ")


def parse_reset(text: str) -> ResetRequest:
    """A ``sim/reset`` message's JSON. Raises ValueError in one line for anything else."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'sim/reset is not JSON ({error}); expected {{"seed": 1}}') from error
    return parse_config(ResetRequest, values, "sim/reset")
