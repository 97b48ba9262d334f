"""Joint by joint, what was commanded and measured, and what the policy wanted: for a whole bag, and for one chunk."""

from __future__ import annotations

import numpy as np

from vla_ros.recordings.series import mean_of_known
from vla_ros.replay.records import COMMANDED, MEASURED, Replay
from vla_ros.replay.report import svg
from vla_ros.replay.report.bags import Bag, NumberedMoment
from vla_ros.replay.report.timeline import LEFT, RIGHT, WIDTH, head_room, letter, marks, name_style, time_scale
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

JOINT_HEIGHT, JOINT_GAP = 92.0, 14.0
MIN_FAN_GAP, MAX_FAN_POINTS = 9.0, 12
BEFORE_S = 1.0
NUM_COLUMNS, PANEL_WIDTH, PANEL_HEIGHT, GUTTER, HEAD, FOOT = 3, 200.0, 96.0, 46.0, 24.0, 26.0
# A joint that stands still is drawn as a line, not as the noise of its sensor.
MIN_PART_OF_RANGE = 0.02


def joint_curves(bag: Bag) -> str:
    """For each joint what was commanded and measured, what we would command, and the policy's chunks as thin fans."""
    x = time_scale(bag)
    top = y = head_room(bag)
    parts: list[str] = []
    for joint in range(len(bag.first.joint_names)):
        parts += _joint_panel(bag, joint, x, y)
        y += JOINT_HEIGHT + JOINT_GAP
    bottom = y - JOINT_GAP
    parts += svg.time_axis(x, bottom, bottom, "seconds since the start of the bag")
    parts += marks(bag, x, top, bottom)
    return svg.picture(WIDTH, y + 20, f"Joint curves of bag {bag.name}", parts)


def _joint_panel(bag: Bag, joint: int, x: svg.Scale, top: float) -> list[str]:
    first, bottom = bag.first, top + JOINT_HEIGHT
    commanded, measured = first.recorded_commands.column(joint), first.joints.column(joint)
    commands = [replay.commands.column(joint) for replay in bag.replays]
    plans = [chunk.positions[:, joint] for replay in bag.replays for chunk in replay.chunks]
    shown = [*(series.values for series in (commanded, measured, *commands)), *plans]
    y = _value_scale(shown, bottom - 3, top + 3, first, joint)
    parts = [svg.rect(LEFT, top, RIGHT - LEFT, JOINT_HEIGHT, "panel")]
    for mode in first.modes:
        if mode.label not in (Mode.POLICY, ""):
            left, right = x(max(first.seconds(mode.start_ns), 0.0)), x(first.seconds(mode.end_ns))
            parts.append(svg.rect(left, top, right - left, JOINT_HEIGHT, f"tint mode-{mode.label}"))
    parts += svg.value_axis(y, LEFT, RIGHT)
    parts += [svg.line(x(tick), top, x(tick), bottom, "grid") for tick in svg.ticks(x.low, x.high, 10)]
    parts.append(svg.text(0, top + 16, svg.fitted(first.joint_names[joint], LEFT - 44, 7.0), "joint"))
    for i, replay in enumerate(bag.replays):
        offsets = [chunk.offset_from(bag.target)[:, joint] for chunk in replay.chunks if bag.counts(chunk)]
        error = float(mean_of_known(np.abs(offsets))) / first.joint_ranges[joint]
        words = f"off by {svg.percent(error)}{letter(bag, i)}" if np.isfinite(error) else ""
        parts.append(svg.text(0, top + 34 + 15 * i, words, f"soft {name_style(bag, i)}"))
        parts.append(svg.path(_fans(replay, joint, x, y), f"fan policy{i}"))
    styles = [*(f"broad policy{i}" for i in range(len(commands))), "measured", "recorded"]
    for series, style in zip([*commands, measured, commanded], styles, strict=True):
        parts.append(svg.path(svg.thin_curve(series.broken_at_gaps(), x, y, first.start_ns), f"curve {style}"))
    return parts


def _fans(replay: Replay, joint: int, x: svg.Scale, y: svg.Scale) -> str:
    """So many of the chunks that they can be told apart."""
    parts, last = [], -np.inf
    for chunk in replay.chunks:
        start = x(replay.seconds(chunk.header_ns))
        if start - last < MIN_FAN_GAP:
            continue
        last = start
        times_s = replay.seconds(chunk.due_ns)
        num_inside = int((times_s <= x.high).sum())
        kept = np.unique(np.linspace(0, num_inside - 1, MAX_FAN_POINTS).astype(int)) if num_inside else []
        parts.append(svg.curve(x(times_s[kept]), y(chunk.positions[kept, joint])))
    return "".join(parts)


def moment_plots(one: NumberedMoment) -> str:
    """One small chart for each joint: the policy's chunk, what was recorded then, and the second before."""
    replay = one.replay
    errors = mean_of_known(np.abs(one.moment.chunk.offset_from(COMMANDED)) / replay.joint_ranges, axis=0)
    worst = int(np.nanargmax(errors))
    parts = []
    for joint, name in enumerate(replay.joint_names):
        left = GUTTER + (joint % NUM_COLUMNS) * (PANEL_WIDTH + GUTTER)
        top = HEAD + (joint // NUM_COLUMNS) * (PANEL_HEIGHT + HEAD + FOOT)
        title = f"{name}, {svg.percent(errors[joint])}" if np.isfinite(errors[joint]) else name
        style = "joint worst" if joint == worst else "joint"
        parts.append(svg.text(left, top - 6, svg.fitted(title, PANEL_WIDTH, 7.0), style))
        parts += _moment_panel(one, joint, left, top)
    num_rows = -(-len(replay.joint_names) // NUM_COLUMNS)
    num_columns = min(NUM_COLUMNS, len(replay.joint_names))
    width = GUTTER + num_columns * (PANEL_WIDTH + GUTTER) - GUTTER + 12
    return svg.picture(width, num_rows * (PANEL_HEIGHT + HEAD + FOOT), "Both trajectories, joint by joint", parts)


def _moment_panel(one: NumberedMoment, joint: int, left: float, top: float) -> list[str]:
    replay, chunk = one.replay, one.moment.chunk
    bottom, right = top + PANEL_HEIGHT, left + PANEL_WIDTH
    due_s, planned = (chunk.due_ns - chunk.header_ns) / NS_PER_S, chunk.positions[:, joint]
    recorded = []
    for series, target, style in (
        (replay.joints, MEASURED, "measured"),
        (replay.recorded_commands, COMMANDED, "recorded"),
    ):
        whole = series.column(joint).broken_at_gaps()
        before = whole.between(chunk.header_ns - BEFORE_S * NS_PER_S, chunk.header_ns)
        times_s = np.concatenate([(before.times_ns - chunk.header_ns) / NS_PER_S, due_s])
        recorded.append((times_s, np.concatenate([before.values, getattr(chunk, target)[:, joint]]), style))
    x = svg.Scale(-BEFORE_S, float(due_s[-1]), left, right)
    y = _value_scale([planned, *(values for _, values, _ in recorded)], bottom - 4, top + 4, replay, joint)
    parts = [svg.rect(left, top, PANEL_WIDTH, PANEL_HEIGHT, "panel"), *svg.time_axis(x, bottom, top, "", 4)]
    parts += [*svg.value_axis(y, left, right), svg.line(x(0), top, x(0), bottom, "zero")]
    parts += [svg.path(svg.curve(x(times_s), y(values)), f"curve {style}") for times_s, values, style in recorded]
    parts.append(svg.path(svg.curve(x(due_s), y(planned)), f"curve wide policy{one.policy}"))
    parts.append(svg.dots(x(due_s), y(planned), f"policy{one.policy}"))
    return parts


def _value_scale(shown: list[np.ndarray], bottom: float, top: float, replay: Replay, joint: int) -> svg.Scale:
    return svg.span_scale(shown, bottom, top, min_span=MIN_PART_OF_RANGE * float(replay.joint_ranges[joint]))
