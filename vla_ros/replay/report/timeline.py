"""The charts along a bag's time: who drove, what would have stopped the robot, how far off the policy was; and joint by
joint, for a whole bag and for one chunk, what was commanded and measured, and what the policy wanted."""

from __future__ import annotations

import numpy as np

from vla_ros.recordings.series import TimeSeries, mean_of_known
from vla_ros.replay.records import COMMANDED, MEASURED, Incident, Replay
from vla_ros.replay.report import svg
from vla_ros.replay.report.bags import Bag, NumberedMoment
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

WIDTH, LEFT, RIGHT = 1000.0, 190.0, 985.0
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
    x = _time_scale(bag)
    top = y = _head_room(bag)
    episodes = [(stretch, stretch.label or "no instruction", "episode") for stretch in bag.first.episodes]
    modes = [
        (stretch, stretch.label or "not recorded", f"mode mode-{stretch.label or 'none'}")
        for stretch in bag.first.modes
    ]
    drawing = svg.Drawing()
    for title, stretches in (("Instruction", episodes), ("Who drove", modes)):
        drawing.text(0, y + 14, title, "row")
        for stretch, label, style in stretches:
            start_s, end_s = bag.first.seconds(stretch.start_ns), bag.first.seconds(stretch.end_ns)
            left, right = x(max(start_s, 0.0)), x(min(end_s, x.high))
            drawing.rect(left, y, right - left, BAND_HEIGHT, style, f"{label}: {start_s:.1f} s to {end_s:.1f} s")
            drawing.text(left + 5, y + 14, svg.fitted(label, right - left - 8), f"{style}-text")
        y += BAND_HEIGHT + 6
    for i, replay in enumerate(bag.replays):
        drawing.text(0, y + 15, f"Events{_letter(bag, i)}", f"row {_name_style(bag, i)}")
        drawing.line(LEFT, y + 11, RIGHT, y + 11, "grid")
        _draw_incidents(drawing, replay, x, y + 11)
        y += LANE_HEIGHT
    y += 8
    errors = [100 * bag.errors(replay) for replay in bag.replays]
    scale = svg.span_scale(errors, y + ERROR_HEIGHT, y, min_span=1.0, low=0.0)
    drawing.text(0, y + 54, "Error of each", "row")
    drawing.text(0, y + 70, "chunk, of range", "row")
    drawing.time_axis(x, y + ERROR_HEIGHT, y, "seconds since the start of the bag")
    drawing.value_axis(scale, x, 5, " %")
    for i, error in enumerate(errors):
        _draw_errors(drawing, bag, i, error, x, scale)
    if not any(np.isfinite(error).any() for error in errors):
        drawing.text((LEFT + RIGHT) / 2, y + 60, "No chunk to compare with the recording", "soft", "middle")
    _draw_marks(drawing, bag, x, top, y + ERROR_HEIGHT)
    return drawing.svg(WIDTH, y + ERROR_HEIGHT + 36, f"Timeline of bag {bag.name}")


def _time_scale(bag: Bag) -> svg.Scale:
    return svg.Scale(0.0, bag.length_s, LEFT, RIGHT)


def _head_room(bag: Bag) -> float:
    """Where a chart begins below the numbers of its ``marks``."""
    return 22.0 if bag.moments else 4.0


def _letter(bag: Bag, i: int) -> str:
    """Behind what is said of policy ``i``, where there are two."""
    return f", {POLICY_LETTERS[i]}" if len(bag.replays) > 1 else ""


def _name_style(bag: Bag, i: int) -> str:
    return f"name{i}" if len(bag.replays) > 1 else ""


def _draw_marks(drawing: svg.Drawing, bag: Bag, x: svg.Scale, top: float, bottom: float) -> None:
    """The worst moments, by their number; a label that would lie on another goes into its neighbour's place."""
    last = -np.inf
    for one in sorted(bag.moments, key=lambda one: one.moment.chunk.header_ns):
        at_s = one.moment.time_s
        last = label = max(x(at_s), last + 17)
        tip = f"Worst moment {one.number}: {one.moment.replay.policy}, {at_s:.2f} s"
        drawing.line(x(at_s), top, x(at_s), bottom, "mark")
        with drawing.link(f"#moment-{one.number}"):
            drawing.disc(label, 9, 8, "mark-disc", tip)
            drawing.text(label, 13, str(one.number), "mark-text", "middle")


def incident_outline(kind: str, x: float, y: float) -> str:
    """The ``d`` of its path: told apart by its shape as well as by its colour."""
    outlines = {
        "watchdog": f"M{x:.1f} {y - 7:.1f}l6.5 12h-13z",
        "limit": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        "processor": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
    }
    return outlines[kind]


def _draw_incidents(drawing: svg.Drawing, replay: Replay, x: svg.Scale, y: float) -> None:
    """A symbol for each incident; those of one kind that would touch are one, with their number."""
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
            drawing.path(incident_outline(kind, x(at_s), y), f"event-{kind}", tip)


def _draw_errors(drawing: svg.Drawing, bag: Bag, i: int, error: np.ndarray, x: svg.Scale, y: svg.Scale) -> None:
    replay = bag.replays[i]
    times_ns = np.array([chunk.header_ns for chunk in replay.chunks], np.int64)
    is_counted = np.array([bag.counts(chunk) for chunk in replay.chunks], bool)
    for shown, style in ((is_counted, f"policy{i}"), (~is_counted, f"policy{i} faint")):
        whole = TimeSeries(times_ns, np.where(shown, error, np.nan)).broken_at_gaps(MAX_CHUNK_GAP_S)
        drawing.path(svg.thin_curve(whole, x, y, replay.start_ns, 1.5), f"curve thin {style}")
    times_s = replay.seconds(times_ns)
    for k in svg.thinned(times_s, error, 6 * x.pixel).tolist():
        if not np.isfinite(error[k]):
            continue
        driver = replay.chunks[k].driver or "driver unknown"
        tip = f"{replay.policy}, {times_s[k]:.2f} s: {svg.percent(error[k] / 100)} of range, {driver}"
        drawing.disc(x(times_s[k]), y(error[k]), 2, f"dot{i}" if is_counted[k] else f"dot{i} faint", tip)


def joint_curves(bag: Bag) -> str:
    """For each joint what was commanded and measured, what we would command, and the policy's chunks as thin fans."""
    x = _time_scale(bag)
    top = y = _head_room(bag)
    drawing = svg.Drawing()
    for joint in range(len(bag.first.joint_names)):
        _draw_joint(drawing, bag, joint, x, y)
        y += JOINT_HEIGHT + JOINT_GAP
    bottom = y - JOINT_GAP
    drawing.time_axis(x, bottom, bottom, "seconds since the start of the bag")
    _draw_marks(drawing, bag, x, top, bottom)
    return drawing.svg(WIDTH, y + 20, f"Joint curves of bag {bag.name}")


def _draw_joint(drawing: svg.Drawing, bag: Bag, joint: int, x: svg.Scale, top: float) -> None:
    first, bottom = bag.first, top + JOINT_HEIGHT
    commanded, measured = first.recorded_commands.column(joint), first.joints.column(joint)
    commands = [replay.commands.column(joint) for replay in bag.replays]
    plans = [chunk.positions[:, joint] for replay in bag.replays for chunk in replay.chunks]
    shown = [*(series.values for series in (commanded, measured, *commands)), *plans]
    y = _value_scale(shown, bottom - 3, top + 3, first, joint)
    drawing.rect(LEFT, top, RIGHT - LEFT, JOINT_HEIGHT, "panel")
    for mode in first.modes:
        if mode.label not in (Mode.POLICY, ""):
            left, right = x(max(first.seconds(mode.start_ns), 0.0)), x(first.seconds(mode.end_ns))
            drawing.rect(left, top, right - left, JOINT_HEIGHT, f"tint mode-{mode.label}")
    drawing.value_axis(y, x)
    for tick in svg.ticks(x.low, x.high, 10):
        drawing.line(x(tick), top, x(tick), bottom, "grid")
    drawing.text(0, top + 16, svg.fitted(first.joint_names[joint], LEFT - 44, 7.0), "joint")
    for i, replay in enumerate(bag.replays):
        offsets = [chunk.offset_from(bag.target)[:, joint] for chunk in replay.chunks if bag.counts(chunk)]
        error = float(mean_of_known(np.abs(offsets))) / first.joint_ranges[joint]
        words = f"off by {svg.percent(error)}{_letter(bag, i)}" if np.isfinite(error) else ""
        drawing.text(0, top + 34 + 15 * i, words, f"soft {_name_style(bag, i)}")
        drawing.path(_fans(replay, joint, x, y), f"fan policy{i}")
    styles = [*(f"broad policy{i}" for i in range(len(commands))), "measured", "recorded"]
    for series, style in zip([*commands, measured, commanded], styles, strict=True):
        drawing.path(svg.thin_curve(series.broken_at_gaps(), x, y, first.start_ns), f"curve {style}")


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
    drawing = svg.Drawing()
    for joint, name in enumerate(replay.joint_names):
        left = GUTTER + (joint % NUM_COLUMNS) * (PANEL_WIDTH + GUTTER)
        top = HEAD + (joint // NUM_COLUMNS) * (PANEL_HEIGHT + HEAD + FOOT)
        title = f"{name}, {svg.percent(errors[joint])}" if np.isfinite(errors[joint]) else name
        style = "joint worst" if joint == worst else "joint"
        drawing.text(left, top - 6, svg.fitted(title, PANEL_WIDTH, 7.0), style)
        _draw_moment(drawing, one, joint, left, top)
    num_rows = -(-len(replay.joint_names) // NUM_COLUMNS)
    num_columns = min(NUM_COLUMNS, len(replay.joint_names))
    width = GUTTER + num_columns * (PANEL_WIDTH + GUTTER) - GUTTER + 12
    return drawing.svg(width, num_rows * (PANEL_HEIGHT + HEAD + FOOT), "Both trajectories, joint by joint")


def _draw_moment(drawing: svg.Drawing, one: NumberedMoment, joint: int, left: float, top: float) -> None:
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
    drawing.rect(left, top, PANEL_WIDTH, PANEL_HEIGHT, "panel")
    drawing.time_axis(x, bottom, top, "", 4)
    drawing.value_axis(y, x)
    drawing.line(x(0), top, x(0), bottom, "zero")
    for times_s, values, style in recorded:
        drawing.path(svg.curve(x(times_s), y(values)), f"curve {style}")
    drawing.path(svg.curve(x(due_s), y(planned)), f"curve wide policy{one.policy}")
    drawing.dots(x(due_s), y(planned), f"policy{one.policy}")


def _value_scale(shown: list[np.ndarray], bottom: float, top: float, replay: Replay, joint: int) -> svg.Scale:
    return svg.span_scale(shown, bottom, top, min_span=MIN_PART_OF_RANGE * float(replay.joint_ranges[joint]))
