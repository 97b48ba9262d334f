"""The growth of an inference as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vla_ros.bench.inference.scale import SWEEPS, ScalePoint

STYLE = {"font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
PREFIX_COLOR, SUFFIX_COLOR, EDGE_COLOR, FAINT_COLOR = "#2b5d8a", "#c2502e", "#20222a", "#63676e"


def write_growth(path: Path, title: str, sweeps: Mapping[str, tuple[ScalePoint, ...]]) -> None:
    """A panel for each sweep, suffix stacked on prefix, all on one scale, as a PNG.

    Raises ValueError where it can't be written.
    """
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
            axis.set_title(_what_stays(field, points[0]), loc="left", color=FAINT_COLOR)
            axis.grid(axis="y", alpha=0.25)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("ms for an inference")
        axes[0].legend(frameon=False, loc="upper left")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=130)
        except OSError as error:
            raise ValueError(f"--scale {path}: {error.strerror or error}; give a file that can be written") from error


def _what_stays(swept: str, point: ScalePoint) -> str:
    stays = {
        "num_cameras": f"{point.num_cameras} cameras",
        "horizon": f"chunk {point.horizon}",
        "num_steps": f"{point.num_steps} steps",
    }
    return ", ".join(text for field, text in stays.items() if field != swept)
