"""The demo's pictures: a contact sheet of the episodes, joints commanded against measured, and a film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vla_ros.demo.stats import Recording
from vla_ros.sim.scene import EpisodeStatus
from vla_ros.units import NS_PER_S

STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
TITLE = {"x": 0.01, "ha": "left", "fontsize": 12, "fontweight": "bold"}
GOOD, BAD = "#228448", "#c43e30"
GOOD_LIGHT, BAD_LIGHT = "#5fd38a", "#ff8a78"  # on black
COMMANDED_COLOR, MEASURED_COLOR, LIMIT_COLOR, SEAM_COLOR = "#c2502e", "#2b5d8a", "#777777", "#444444"
NUM_PICTURES = 3
MOTION = 0.03
"""Of a panel's height: what moved less would be an empty one."""
CAPTION_PIXELS, FONT_PIXELS, FILM_COLORS, PAUSE_S = 30, 15, 128, 1.0


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


def write_joint_plot(path: Path, title: str, limits: Mapping[str, tuple[float, float]], recording: Recording) -> None:
    """One panel for each joint that moved, commanded over measured, all to one scale, as a PNG. ``limits`` of all
    joints, rad or m, in the order of the recording's."""
    names = list(limits)
    spans = {name: _span(recording, joint) for joint, name in enumerate(names)}
    height = 1.15 * max(high - low for low, high in spans.values())
    moved = [name for name, (low, high) in spans.items() if high - low >= MOTION * height] or names
    num_columns = min(3, len(moved))
    num_lines = -(-len(moved) // num_columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 2.7 * num_lines + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(num_lines, num_columns, sharex=True, squeeze=False)
        for axis, name in zip_longest(axes.flat, moved):
            if name is None:
                axis.set_visible(False)
                continue
            _draw_joint(axis, names.index(name), recording)
            middle = sum(spans[name]) / 2
            axis.set_ylim(middle - height / 2, middle + height / 2)
            for limit in limits[name]:
                axis.axhline(limit, color=LIMIT_COLOR, ls="--", lw=1)
            axis.set_title(name, loc="left")
            axis.set_title(
                f"limits {limits[name][0]:.2f} to {limits[name][1]:.2f}", loc="right", color=LIMIT_COLOR, size=8
            )
        for axis in axes[:, 0]:
            axis.set_ylabel("rad")
        for axis in axes.flat[len(moved) - num_columns : len(moved)]:  # nothing is below these
            axis.tick_params(labelbottom=True)
        figure.supxlabel("s since the policy began to drive", fontsize=STYLE["font.size"])
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
        still = [name for name in names if name not in moved]
        figure.suptitle(title + (f"; at rest: {', '.join(still)}" if still else ""), **TITLE)
        figure.savefig(path, dpi=130)


def _span(recording: Recording, joint: int) -> tuple[float, float]:
    values = [positions[joint] for _, positions in (*recording.states, *recording.commands)]
    return min(values), max(values)


def _draw_joint(axis: Axes, joint: int, recording: Recording) -> None:
    start_ns = recording.commands[0][0]
    for samples, style in (
        (recording.states, {"color": MEASURED_COLOR, "lw": 3, "alpha": 0.45, "label": "measured"}),
        (recording.commands, {"color": COMMANDED_COLOR, "lw": 1.1, "label": "commanded"}),
    ):
        times_s = [(stamp_ns - start_ns) / NS_PER_S for stamp_ns, _ in samples]
        axis.plot(times_s, [positions[joint] for _, positions in samples], **style)
    seams_s = [(stamp_ns - start_ns) / NS_PER_S for stamp_ns in recording.chunk_ns]
    foot = axis.get_xaxis_transform()  # s to the right, shares of the panel's height upwards
    axis.vlines(seams_s, 0, 0.04, color=SEAM_COLOR, lw=0.8, transform=foot, label="a chunk arrives")
    axis.grid(alpha=0.25)


def write_film(path: Path, episodes: Sequence[EpisodeStatus], films: Sequence[Sequence[np.ndarray]], hz: float) -> None:
    """A moving picture, GIF or WebP by its name, over and over: the views of each episode, ``hz`` of them a second,
    with its instruction and, at last, its outcome. Raises ValueError where there is no view."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), FONT_PIXELS)
    pictures = []
    for episode, views in zip(episodes, films, strict=True):
        words = f"“{episode.instruction}”"
        pictures += [_captioned(view, words, "white", font) for view in views[:-1]]
        ending = f"{words}: {episode.outcome}, {episode.elapsed_s:.1f} s"
        color = GOOD_LIGHT if episode.is_success else BAD_LIGHT
        pictures += [_captioned(view, ending, color, font) for view in views[-1:] for _ in range(round(PAUSE_S * hz))]
    if not pictures:
        raise ValueError(f"{path}: no pictures arrived; see sim_node's log")
    if path.suffix.lower() == ".gif":  # one palette for all of them: each its own would shimmer
        palette = pictures[0].quantize(FILM_COLORS)
        pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=round(1e3 / hz), loop=0, optimize=True, quality=70
    )


def _captioned(view: np.ndarray, words: str, color: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    height, width, _ = view.shape
    picture = Image.new("RGB", (width, height + CAPTION_PIXELS), "black")
    picture.paste(Image.fromarray(view))
    ImageDraw.Draw(picture).text((width // 2, height + CAPTION_PIXELS // 2), words, color, font, anchor="mm")
    return picture
