"""What a ``sim/reset`` message asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass

RESET_KEYS = ("seed", "instruction", "target")


@dataclass(frozen=True)
class ResetRequest:
    """Which evaluation scene to start; an instruction or a target block other than the scene's own, if given."""

    seed: int
    instruction: str | None = None
    target: str | None = None


def parse_reset(text: str) -> ResetRequest:
    """A ``sim/reset`` message's JSON. Raises ValueError in one line for anything else."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'sim/reset is not JSON ({error}); expected {{"seed": 1}}') from error
    if not isinstance(values, dict) or "seed" not in values or set(values) - set(RESET_KEYS):
        raise ValueError(f"sim/reset is {text[:100]}; expected an object with seed and, if wanted, instruction, target")
    seed = values["seed"]
    if type(seed) is not int or seed < 0:
        raise ValueError(f"sim/reset has seed {seed!r}; expected a whole number from 0 on")
    for key in ("instruction", "target"):
        if not isinstance(values.get(key), (str, type(None))):
            raise ValueError(f"sim/reset has {key} {values[key]!r}; expected text or null")
    return ResetRequest(seed, values.get("instruction"), values.get("target"))
