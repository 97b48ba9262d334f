"""How an inference grows with cameras, chunk length and steps, on a policy's own sizes with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from vla_ros.bench.inference.paired import measure_interleaved
from vla_ros.bench.inference.stages import Stages
from vla_ros.bench.inference.subject import Sizes, random_subject
from vla_ros.policies.families import family_of
from vla_ros.policies.trials import NUM_CAMERAS
from vla_ros.strict import explained

# What is swept: field of a point, title, values, and how a picture says what it is where another one is swept.
SWEEPS = {
    "num_cameras": ("cameras", (1, 2, 3, 4, 5, 6), "{} cameras"),
    "horizon": ("actions in a chunk", (10, 25, 50, 75, 100), "chunk {}"),
    "num_steps": ("denoising steps", (1, 5, 10, 15, 20), "{} steps"),
}
STYLE = {"font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
PREFIX_COLOR, SUFFIX_COLOR, EDGE_COLOR, FAINT_COLOR = "#2b5d8a", "#c2502e", "#20222a", "#63676e"


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
    config, trials = sizes.config, family_of(sizes.config).make_trials()
    base = {"num_cameras": NUM_CAMERAS, "horizon": config.action_horizon, "num_steps": getattr(config, "num_steps", 0)}
    report(f"{'cameras':>8}{'chunk':>7}{'steps':>7}{'tokens':>8}{'prefix ms':>11}{'suffix ms':>11}")

    @cache  # what the policy has itself is a point of every sweep
    def measured(num_cameras: int, horizon: int, num_steps: int) -> ScalePoint:
        resized = replace(sizes, config=trials.resize(config, horizon, num_steps))
        subject = random_subject(resized, device, dtype, num_cameras)
        subject.policy.pack_weights()
        runs = Stages(subject, device).runs
        times_ms = measure_interleaved({name: runs[name] for name in ("prefix", "suffix")}, num_rounds, device)
        prefix_ms, suffix_ms = (float(np.median(values)) for values in times_ms.values())
        num_tokens = trials.num_tokens(subject.request)
        report(f"{num_cameras:8}{horizon:7}{num_steps:7}{num_tokens:8}{prefix_ms:11.2f}{suffix_ms:11.2f}")
        return ScalePoint(num_cameras, horizon, num_steps, num_tokens, prefix_ms, suffix_ms)

    return {
        field: tuple(measured(*(base | {field: value}).values()) for value in values)
        for field, (_, values, _) in SWEEPS.items()
    }


def write_growth(path: Path, title: str, sweeps: Mapping[str, tuple[ScalePoint, ...]]) -> None:
    """A panel for each sweep, suffix stacked on prefix, all on one scale, as a PNG.

    Raises ValueError where it can't be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(sweeps), sharey=True)
        for axis, (field, points) in zip(axes, sweeps.items(), strict=True):
            values = [getattr(point, field) for point in points]
            prefix = [point.prefix_ms for point in points]
            total = [point.prefix_ms + point.suffix_ms for point in points]
            axis.fill_between(values, 0, prefix, color=PREFIX_COLOR, alpha=0.85, lw=0, label="prefix")
            axis.fill_between(values, prefix, total, color=SUFFIX_COLOR, alpha=0.75, lw=0, label="suffix, all steps")
            axis.plot(values, total, color=EDGE_COLOR, lw=1.2, marker="o", ms=4, clip_on=False)
            axis.set_xticks(values)
            axis.set_xlim(values[0], values[-1])
            axis.set_xlabel(SWEEPS[field][0])
            stays = [text.format(getattr(points[0], name)) for name, (_, _, text) in SWEEPS.items() if name != field]
            axis.set_title(", ".join(stays), loc="left", color=FAINT_COLOR)
            axis.grid(axis="y", alpha=0.25)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("ms for an inference")
        axes[0].legend(frameon=False, loc="upper left")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        with explained(f"--scale {path}: ", OSError, after="; give a file that can be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=130)
