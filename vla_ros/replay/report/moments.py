"""The worst moments: what the cameras saw, and the policy's trajectory beside the recorded one."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np

from vla_ros.replay.averages import mean_of_known
from vla_ros.replay.records import Replay, ReplayedChunk, Series
from vla_ros.replay.report.bags import Curve, broken_at_gaps, ranges_of, reference_of
from vla_ros.replay.report.content import CameraImage
from vla_ros.replay.report.svg import (
    Scale,
    curve,
    dots,
    fitted,
    line,
    path,
    percent,
    rect,
    span_scale,
    svg,
    text,
    time_axis,
    value_axis,
)

MAX_IMAGE_WIDTH, JPEG_QUALITY = 400, 80
BEFORE_S = 1.0
NUM_COLUMNS, PANEL_WIDTH, PANEL_HEIGHT, GUTTER, HEAD, FOOT = 3, 200.0, 96.0, 46.0, 24.0, 26.0


def moment_plots(replay: Replay, chunk: ReplayedChunk, i: int) -> str:
    """One small chart for each joint: the chunk of policy ``i``, what was recorded then, and the second before."""
    errors = mean_of_known(abs(chunk.positions - reference_of(replay, chunk)) / ranges_of(replay), axis=0)
    worst = int(np.nanargmax(errors)) if np.isfinite(errors).any() else -1
    parts = []
    for joint, name in enumerate(replay.joint_names):
        left = GUTTER + (joint % NUM_COLUMNS) * (PANEL_WIDTH + GUTTER)
        top = HEAD + (joint // NUM_COLUMNS) * (PANEL_HEIGHT + HEAD + FOOT)
        title = f"{name}, {percent(errors[joint])}" if np.isfinite(errors[joint]) else name
        style = "joint worst" if joint == worst else "joint"
        parts.append(text(left, top - 6, fitted(title, PANEL_WIDTH, 7.0), style))
        parts += _panel(replay, chunk, joint, left, top, i)
    num_rows = -(-len(replay.joint_names) // NUM_COLUMNS)
    num_columns = min(NUM_COLUMNS, len(replay.joint_names))
    width = GUTTER + num_columns * (PANEL_WIDTH + GUTTER) - GUTTER + 12
    return svg(width, num_rows * (PANEL_HEIGHT + HEAD + FOOT), "Both trajectories, joint by joint", parts)


def _panel(replay: Replay, chunk: ReplayedChunk, joint: int, left: float, top: float, i: int) -> list[str]:
    bottom, right = top + PANEL_HEIGHT, left + PANEL_WIDTH
    due_s = (chunk.due_ns - chunk.header_ns) / 1e9
    x = Scale(-BEFORE_S, float(due_s[-1]), left, right)
    before = [_before(series, chunk, joint) for series in (replay.joints, replay.recorded_commands)]
    shown = [
        chunk.positions[:, joint],
        chunk.commanded[:, joint],
        chunk.measured[:, joint],
        *(part.values for part in before),
    ]
    joint_range = float(ranges_of(replay)[joint])
    y = span_scale(shown, bottom - 4, top + 4, min_span=0.02 * joint_range if np.isfinite(joint_range) else 1e-3)
    parts = [rect(left, top, PANEL_WIDTH, PANEL_HEIGHT, "panel"), *time_axis(x, bottom, top, "", 4)]
    parts += [*value_axis(y, left, right), line(x(0), top, x(0), bottom, "zero")]
    recorded = ((before[0], chunk.measured, "curve measured"), (before[1], chunk.commanded, "curve recorded"))
    for past, future, style in recorded:
        times_s = np.concatenate([(past.times_ns - chunk.header_ns) / 1e9, due_s])
        values = np.concatenate([past.values, future[:, joint]])
        parts.append(path(curve(x.of(times_s), y.of(values)), style))
    parts.append(path(curve(x.of(due_s), y.of(chunk.positions[:, joint])), f"curve wide policy{i}"))
    parts.append(dots(x.of(due_s), y.of(chunk.positions[:, joint]), f"policy{i}"))
    return parts


def _before(series: Series, chunk: ReplayedChunk, joint: int) -> Curve:
    """What one joint did before the image was taken."""
    whole = broken_at_gaps(series.times_ns, series.values[:, joint])
    is_before = (whole.times_ns >= chunk.header_ns - BEFORE_S * 1e9) & (whole.times_ns <= chunk.header_ns)
    return Curve(whole.times_ns[is_before], whole.values[is_before])


def image_figure(shown: CameraImage, at_s: float) -> str:
    """The image as a JPEG inside the page, no wider than it is looked at."""
    image = shown.image
    height, width = image.shape[:2]
    if width > MAX_IMAGE_WIDTH:
        size = (MAX_IMAGE_WIDTH, max(1, round(height * MAX_IMAGE_WIDTH / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    is_written, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert is_written
    data = base64.b64encode(jpeg.tobytes()).decode()
    caption = escape(f"{shown.camera}, {at_s:.2f} s")
    return (
        f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
