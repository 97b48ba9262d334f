"""How an inference grows with cameras, chunk length and steps, on a policy's own sizes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from vla_ros.bench.inference.paired import measure_interleaved
from vla_ros.bench.inference.stages import Stages
from vla_ros.bench.inference.subject import Sizes, random_subject
from vla_ros.policies.families import family_of
from vla_ros.policies.trials import NUM_CAMERAS

# What is swept: field of a point, title, values.
SWEEPS = {
    "num_cameras": ("cameras", (1, 2, 3, 4, 5, 6)),
    "horizon": ("actions in a chunk", (10, 25, 50, 75, 100)),
    "num_steps": ("denoising steps", (1, 5, 10, 15, 20)),
}


@dataclass(frozen=True)
class ScalePoint:
    """One size; medians in ms."""

    num_cameras: int
    horizon: int
    num_steps: int
    num_tokens: int
    prefix_ms: float
    suffix_ms: float


def sweep(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, num_rounds: int, report: Callable[[str], None]
) -> dict[str, tuple[ScalePoint, ...]]:
    """The points of every sweep, each also told to ``report``; what isn't swept stays as the policy has it."""
    config = sizes.config
    base = {"num_cameras": NUM_CAMERAS, "horizon": config.action_horizon, "num_steps": getattr(config, "num_steps", 0)}
    report(f"{'cameras':>8}{'chunk':>7}{'steps':>7}{'tokens':>8}{'prefix ms':>11}{'suffix ms':>11}")

    @cache  # what the policy has itself is a point of every sweep
    def measured(num_cameras: int, horizon: int, num_steps: int) -> ScalePoint:
        point = _measure(sizes, num_cameras, horizon, num_steps, device, dtype, num_rounds)
        report(_line(point))
        return point

    return {
        field: tuple(measured(*(base | {field: value}).values()) for value in values)
        for field, (_, values) in SWEEPS.items()
    }


def _measure(
    sizes: Sizes,
    num_cameras: int,
    horizon: int,
    num_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    num_rounds: int,
) -> ScalePoint:
    config = family_of(sizes.config).make_trials().resize(sizes.config, horizon, num_steps)
    subject = random_subject(replace(sizes, config=config), device, dtype, num_cameras)
    subject.policy.pack_weights()
    stages = Stages(subject, device)
    times_ms = measure_interleaved({name: stages.runs[name] for name in ("prefix", "suffix")}, num_rounds, device)
    return ScalePoint(
        num_cameras,
        horizon,
        num_steps,
        num_tokens=family_of(config).make_trials().num_tokens(subject.request),
        prefix_ms=float(np.median(times_ms["prefix"])),
        suffix_ms=float(np.median(times_ms["suffix"])),
    )


def _line(point: ScalePoint) -> str:
    sizes = f"{point.num_cameras:8}{point.horizon:7}{point.num_steps:7}{point.num_tokens:8}"
    return f"{sizes}{point.prefix_ms:11.2f}{point.suffix_ms:11.2f}"
