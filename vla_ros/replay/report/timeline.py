"""The charts along a bag's time: who drove, what would have stopped the robot, how far off the policy was; and joint by
joint, for a whole bag and for one chunk, what was commanded and measured, and what the policy wanted."""

from __future__ import annotations

import numpy as np

from vla_ros.recordings.series import TimeSeries, mean_of_known
from vla_ros.replay.records import COMMANDED, MEASURED, Incident, Replay, Stretch
from vla_ros.replay.report import svg
from vla_ros.replay.report.bags import Bag, NumberedMoment
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

WIDTH, LEFT, RIGHT = 1000.0, 150.0, 990.0
BAND_HEIGHT, LANE_HEIGHT, ERROR_HEIGHT = 20.0, 22.0, 120.0
MAX_CHUNK_GAP_S = 1.5
MIN_MARK_GAP = 7.0
POLICY_LETTERS = "AB"
INCIDENT_NAMES = {"watchdog": "Watchdog", "limit": "Limit", "processor": "Refused"}
JOINT_HEIGHT, JOINT_GAP = 92.0, 14.0
MIN_FAN_GAP, MAX_FAN_POINTS = 9.0, 12
BEFORE_S = 1.0
NUM_COLUMNS, PANEL_WIDTH, PANEL_HEIGHT, GUTTER, HEAD, FOOT = 3, 200.0, 96.0, 46.0, 24.0, 26.0
# A joint that stands still is drawn as a line, not as the noise of its sensor.
MIN_PART_OF_RANGE = 0.02


def timeline(bag: Bag) -> str:
    """Instructions, drivers, incidents and the error of each chunk, one below the other."""
    x = time_scale(bag)
    top = y = head_room(bag)
    episodes = [(stretch, stretch.label or "no instruction", "episode") for stretch in bag.first.episodes]
    modes = [
        (stretch, stretch.label or "not recorded", f"mode mode-{stretch.label or 'none'}")
        for stretch in bag.first.modes
    ]
    parts = []
    for title, stretches in (("Instruction", episodes), ("Who drove", modes)):
        parts.append(_row_label(title, y + 14))
        for stretch, label, style in stretches:
            parts += _band(bag, x, y, stretch, label, style)
        y += BAND_HEIGHT + 6
    for i, replay in enumerate(bag.replays):
        parts.append(_row_label(f"Events{letter(bag, i)}", y + 15, name_style(bag, i)))
        parts += [svg.line(LEFT, y + 11, RIGHT, y + 11, "grid"), *_incidents(replay, x, y + 11)]
        y += LANE_HEIGHT
    y += 8
    errors = [100 * bag.errors(replay) for replay in bag.replays]
    scale = svg.span_scale(errors, y + ERROR_HEIGHT, y, min_span=1.0, low=0.0)
    parts += [_row_label("Error of each", y + 54), _row_label("chunk, of range", y + 70)]
    parts += svg.time_axis(x, y + ERROR_HEIGHT, y, "seconds since the start of the bag")
    parts += svg.value_axis(scale, LEFT, RIGHT, 5, " %")
    for i, error in enumerate(errors):
        parts += _error_curve(bag, i, error, x, scale)
    if not any(np.isfinite(error).any() for error in errors):
        parts.append(svg.text((LEFT + RIGHT) / 2, y + 60, "No chunk to compare with the recording", "soft", "middle"))
    parts += marks(bag, x, top, y + ERROR_HEIGHT)
    return svg.picture(WIDTH, y + ERROR_HEIGHT + 36, f"Timeline of bag {bag.name}", parts)


def time_scale(bag: Bag) -> svg.Scale:
    return svg.Scale(0.0, bag.length_s, LEFT, RIGHT)


def head_room(bag: Bag) -> float:
    """Where a chart begins below the numbers of its ``marks``."""
    return 22.0 if bag.moments else 4.0


def letter(bag: Bag, i: int) -> str:
    """Behind what is said of policy ``i``, where there are two."""
    return f", {POLICY_LETTERS[i]}" if len(bag.replays) > 1 else ""


def name_style(bag: Bag, i: int) -> str:
    return f"name{i}" if len(bag.replays) > 1 else ""


def marks(bag: Bag, x: svg.Scale, top: float, bottom: float) -> list[str]:
    """The worst moments, by their number; a label that would lie on another goes into its neighbour's place."""
    parts, last = [], -np.inf
    for one in sorted(bag.moments, key=lambda one: one.moment.chunk.header_ns):
        at_s = one.moment.time_s
        last = label = max(x(at_s), last + 17)
        tip = f"Worst moment {one.number}: {one.moment.replay.policy}, {at_s:.2f} s"
        parts.append(svg.line(x(at_s), top, x(at_s), bottom, "mark"))
        parts.append(f'<a href="#moment-{one.number}">')
        parts.append(svg.disc(label, 9, 8, "mark-disc", tip))
        parts.append(svg.text(label, 13, str(one.number), "mark-text", "middle") + "</a>")
    return parts


def incident_symbol(kind: str, x: float, y: float, tip: str) -> str:
    """Told apart by its shape as well as by its colour."""
    outlines = {
        "watchdog": f"M{x:.1f} {y - 7:.1f}l6.5 12h-13z",
        "limit": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        "processor": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
    }
    return svg.path(outlines[kind], f"event-{kind}", tip)


def _row_label(words: str, y: float, style: str = "") -> str:
    return svg.text(0, y, words, f"row {style}")


def _band(bag: Bag, x: svg.Scale, y: float, stretch: Stretch, label: str, style: str) -> list[str]:
    start_s, end_s = bag.first.seconds(stretch.start_ns), bag.first.seconds(stretch.end_ns)
    left, right = x(max(start_s, 0.0)), x(min(end_s, x.high))
    return [
        svg.rect(left, y, right - left, BAND_HEIGHT, style, f"{label}: {start_s:.1f} s to {end_s:.1f} s"),
        svg.text(left + 5, y + 14, svg.fitted(label, right - left - 8), f"{style}-text"),
    ]


def _incidents(replay: Replay, x: svg.Scale, y: float) -> list[str]:
    """A symbol for each incident; those of one kind that would touch are one, with their number."""
    parts = []
    for kind in ("limit", "processor", "watchdog"):  # the gravest on top
        groups: list[list[Incident]] = []
        for event in sorted((e for e in replay.events if e.kind == kind), key=lambda e: e.time_ns):
            if groups and x(replay.seconds(event.time_ns)) - x(replay.seconds(groups[-1][0].time_ns)) < MIN_MARK_GAP:
                groups[-1].append(event)
            else:
                groups.append([event])
        for group in groups:
            at_s = replay.seconds(group[0].time_ns)
            num_times = sum(event.num_times for event in group)
            more = f" (and {num_times - 1} more)" if num_times > 1 else ""
            tip = f"{INCIDENT_NAMES[kind]} at {at_s:.2f} s: {group[0].line}{more}"
            parts.append(incident_symbol(kind, x(at_s), y, tip))
    return parts


def _error_curve(bag: Bag, i: int, error: np.ndarray, x: svg.Scale, y: svg.Scale) -> list[str]:
    replay = bag.replays[i]
    times_ns = np.array([chunk.header_ns for chunk in replay.chunks], np.int64)
    is_counted = np.array([bag.counts(chunk) for chunk in replay.chunks], bool)
    parts = []
    for shown, style in ((is_counted, f"policy{i}"), (~is_counted, f"policy{i} faint")):
        whole = TimeSeries(times_ns, np.where(shown, error, np.nan)).broken_at_gaps(MAX_CHUNK_GAP_S)
        parts.append(svg.path(svg.thin_curve(whole, x, y, replay.start_ns, 1.5), f"curve thin {style}"))
    times_s = replay.seconds(times_ns)
    for k in svg.thinned(times_s, error, 6 * x.pixel).tolist():
        if not np.isfinite(error[k]):
            continue
        driver = replay.chunks[k].driver or "driver unknown"
        tip = f"{replay.policy}, {times_s[k]:.2f} s: {svg.percent(error[k] / 100)} of range, {driver}"
        parts.append(svg.disc(x(times_s[k]), y(error[k]), 2, f"dot{i}" if is_counted[k] else f"dot{i} faint", tip))
    return parts


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
    replay = one.moment.replay
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
    replay, chunk = one.moment.replay, one.moment.chunk
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
