"""The demo's two pictures: a contact sheet of the episodes, and joints commanded against measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vla_ros.demo.stats import Recording
from vla_ros.sim.scene import EpisodeStatus
from vla_ros.units import NS_PER_S

STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
TITLE = {"x": 0.01, "ha": "left", "fontsize": 12, "fontweight": "bold"}
GOOD, BAD = "#228448", "#c43e30"
COMMANDED_COLOR, MEASURED_COLOR = "#c2502e", "#2b5d8a"
NUM_PICTURES = 3
MIN_SPAN_RAD = 0.1
"""Of a plot's height, so that a joint at rest doesn't show its noise as motion."""


def write_contact_sheet(
    path: Path, title: str, episodes: Sequence[EpisodeStatus], recordings: Sequence[Recording], num_columns: int
) -> None:
    """First, middle and last picture of every episode, its only views, with its instruction and outcome, as a PNG."""
    num_lines = -(-len(episodes) // num_columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4 * num_columns, 2.1 * num_lines + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{title}: first, middle and last picture of each episode", **TITLE)
        cards = figure.subfigures(num_lines, num_columns, squeeze=False).flat
        for card, episode, recording in zip(cards, episodes, recordings, strict=False):
            color = GOOD if episode.is_success else BAD
            words = f"“{episode.instruction}”: {episode.outcome}, {episode.elapsed_s:.1f} s"
            card.suptitle(words if recording.views else f"{words}; no pictures arrived", color=color, fontsize=10)
            for axis, view in zip_longest(card.subplots(1, NUM_PICTURES), recording.views):
                axis.axis("off")
                if view is not None:
                    axis.imshow(view)
        figure.savefig(path, dpi=100)


def write_joint_plot(path: Path, title: str, joint_names: Sequence[str], recording: Recording) -> None:
    """One panel for each joint, commanded over measured, as a PNG."""
    start_ns = recording.commands[0][0]
    lines = [
        (recording.states, {"color": MEASURED_COLOR, "lw": 3, "alpha": 0.45, "label": "measured"}),
        (recording.commands, {"color": COMMANDED_COLOR, "lw": 1.1, "label": "commanded"}),
    ]
    num_columns = 3
    num_lines = -(-len(joint_names) // num_columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 2.7 * num_lines + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(num_lines, num_columns, sharex=True, squeeze=False)
        for joint, axis in enumerate(axes.flat):
            if joint >= len(joint_names):
                axis.set_visible(False)
                continue
            for samples, style in lines:
                times_s = [(stamp_ns - start_ns) / NS_PER_S for stamp_ns, _ in samples]
                axis.plot(times_s, [positions[joint] for _, positions in samples], **style)
            axis.set_title(joint_names[joint], loc="left")
            axis.grid(alpha=0.25)
            low, high = axis.get_ylim()
            middle, half = (low + high) / 2, max(high - low, MIN_SPAN_RAD) / 2
            axis.set_ylim(middle - half, middle + half)
        for axis in axes[:, 0]:
            axis.set_ylabel("rad")
        for axis in axes[-1]:
            axis.set_xlabel("s since the policy began to drive")
        axes[0, 0].legend(frameon=False, loc="best")
        figure.suptitle(title, **TITLE)
        figure.savefig(path, dpi=130)
