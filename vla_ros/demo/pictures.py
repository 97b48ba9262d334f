"""The demo's two pictures: a contact sheet of the episodes, and joints commanded against measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vla_ros.demo.stats import Recording
from vla_ros.units import NS_PER_S

BACKGROUND, CARD, INK, FAINT = (243, 243, 240), (255, 255, 255), (32, 34, 38), (120, 124, 130)
GOOD, BAD = (34, 132, 72), (196, 62, 48)
MARGIN, GAP, CAPTION = 24, 6, 52
PLOT_STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
COMMANDED_COLOR, MEASURED_COLOR = "#c2502e", "#2b5d8a"


@dataclass(frozen=True)
class SheetRow:
    """One episode on the contact sheet; ``frames`` are its first, middle and last picture, uint8 ``[*, *, 3]``."""

    instruction: str
    outcome: str
    is_success: bool
    frames: Sequence[np.ndarray]


def write_contact_sheet(path: Path, title: str, rows: Sequence[SheetRow], num_columns: int) -> None:
    """First, middle and last picture of every episode, with its instruction and outcome, as a PNG."""
    size = 256 if num_columns <= 2 else 192 if num_columns <= 3 else 144
    width, height = 3 * size + 2 * GAP + 2 * GAP, size + CAPTION + GAP
    num_lines = -(-len(rows) // num_columns)
    header = 92
    sheet = Image.new(
        "RGB",
        (MARGIN + num_columns * (width + MARGIN), header + num_lines * (height + MARGIN)),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 36), title, INK, _font(24, bold=True), anchor="lm")
    draw.text((MARGIN, 66), "first, middle and last picture of each episode", FAINT, _font(15), anchor="lm")
    for index, row in enumerate(rows):
        line, column = divmod(index, num_columns)
        _draw_card(sheet, draw, MARGIN + column * (width + MARGIN), header + line * (height + MARGIN), width, size, row)
    sheet.save(path)


def write_joint_plot(path: Path, title: str, joint_names: Sequence[str], recording: Recording) -> None:
    """One panel for each joint, commanded over measured, as a PNG."""
    start_ns = recording.commands[0][0]
    lines = [
        (recording.states, {"color": MEASURED_COLOR, "lw": 3, "alpha": 0.45, "label": "measured"}),
        (recording.commands, {"color": COMMANDED_COLOR, "lw": 1.1, "label": "commanded"}),
    ]
    num_columns = 3
    num_lines = -(-len(joint_names) // num_columns)
    with matplotlib.rc_context(PLOT_STYLE):
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
            _keep_span(axis, 0.1)
        for axis in axes[:, 0]:
            axis.set_ylabel("rad")
        for axis in axes[-1]:
            axis.set_xlabel("s since the policy drives")
        axes[0, 0].legend(frameon=False, loc="best")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.savefig(path, dpi=130)


def _draw_card(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, width: int, size: int, row: SheetRow
) -> None:
    color = GOOD if row.is_success else BAD
    draw.rounded_rectangle((left, top, left + width, top + size + CAPTION + GAP), 8, CARD)
    draw.rounded_rectangle((left, top, left + 5, top + CAPTION - 4), 2, color)
    font = _font(size // 15 if size > 150 else 12, bold=True)
    draw.text((left + 18, top + CAPTION / 2), f"“{row.instruction}”", INK, font, anchor="lm")
    draw.text((left + width - 12, top + CAPTION / 2), row.outcome, color, font, anchor="rm")
    for i, frame in enumerate(row.frames):
        picture = Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + GAP + i * (size + GAP), top + CAPTION))
    if not row.frames:
        draw.text((left + width / 2, top + CAPTION + size / 2), "no pictures arrived", FAINT, font, anchor="mm")


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _keep_span(axis: matplotlib.axes.Axes, span: float) -> None:
    """At least ``span`` rad high, so that a joint at rest doesn't show its noise as motion."""
    low, high = axis.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        axis.set_ylim(middle - span / 2, middle + span / 2)
