"""The charts along a bag's time: who drove, what would have stopped the robot, how far off the policy was."""

from __future__ import annotations

import numpy as np

from vla_ros.replay.comparison.averages import mean_of_known
from vla_ros.replay.records import Event, Replay, Series, Span
from vla_ros.replay.report.data import Bag, broken_at_gaps, chunk_errors, ranges_of, reference_of
from vla_ros.replay.report.html import POLICY_LETTERS
from vla_ros.replay.report.svg import (
    Scale,
    curve,
    fitted,
    line,
    path,
    percent,
    rect,
    shape,
    span_scale,
    svg,
    text,
    thinned,
    time_axis,
    value_axis,
)
from vla_ros.types import Mode

WIDTH, LEFT, RIGHT = 1000.0, 150.0, 990.0
BAND_HEIGHT, LANE_HEIGHT, ERROR_HEIGHT, JOINT_HEIGHT = 20.0, 22.0, 120.0, 92.0
MAX_CHUNK_GAP_S = 1.5
MIN_MARK_GAP, MIN_FAN_GAP, MAX_FAN_POINTS = 7.0, 9.0, 12
EVENT_NAMES = {"watchdog": "Watchdog", "limit": "Limit", "processor": "Refused"}
MODE_NAMES = {"": "not recorded"}


def timeline(bag: Bag) -> str:
    """Instructions, drivers, events and the error of each chunk, one below the other."""
    x = _time_scale(bag)
    parts, y = [], 22.0 if bag.marks else 4.0
    top = y
    parts += _row_label("Instruction", y + 14) + _spans(bag, x, y, bag.first.episodes, is_mode=False)
    y += BAND_HEIGHT + 6
    parts += _row_label("Who drove", y + 14) + _spans(bag, x, y, bag.first.modes, is_mode=True)
    y += BAND_HEIGHT + 6
    for i, replay in enumerate(bag.replays):
        parts += _row_label(f"Events{_letter(bag, i)}", y + 15, _name_style(bag, i))
        parts += [line(LEFT, y + 11, RIGHT, y + 11, "grid"), *_events(bag, replay, x, y + 11)]
        y += LANE_HEIGHT
    y += 8
    errors = [100 * chunk_errors(replay) for replay in bag.replays]
    scale = span_scale(errors, y + ERROR_HEIGHT, y, min_span=1.0, low=0.0)
    parts += [*_row_label("Error of each", y + 54), *_row_label("chunk, of range", y + 70)]
    parts += time_axis(x, y + ERROR_HEIGHT, y, "seconds since the start of the bag")
    parts += value_axis(scale, LEFT, RIGHT, 5, " %")
    for i, (replay, error) in enumerate(zip(bag.replays, errors, strict=True)):
        parts += _error_curve(bag, replay, error, x, scale, i)
    if not any(np.isfinite(error).any() for error in errors):
        parts.append(text((LEFT + RIGHT) / 2, y + 60, "No chunk to compare with the recording", "soft", "middle"))
    parts += _marks(bag, x, top, y + ERROR_HEIGHT)
    return svg(WIDTH, y + ERROR_HEIGHT + 36, f"Timeline of bag {bag.name}", parts)


def joint_curves(bag: Bag) -> str:
    """For each joint what was commanded and measured, what we would command, and the policy's chunks as thin fans."""
    x = _time_scale(bag)
    top = y = 22.0 if bag.marks else 4.0
    parts: list[str] = []
    for joint, name in enumerate(bag.first.joint_names):
        parts += _joint_panel(bag, joint, name, x, y)
        y += JOINT_HEIGHT + 14
    parts += time_axis(x, y - 14, y - 14, "seconds since the start of the bag")
    parts += _marks(bag, x, top, y - 14)
    return svg(WIDTH, y + 20, f"Joint curves of bag {bag.name}", parts)


def _time_scale(bag: Bag) -> Scale:
    return Scale(0.0, bag.length_s, LEFT, RIGHT)


def _row_label(words: str, y: float, style: str = "") -> list[str]:
    return [text(0, y, words, f"row {style}")]


def _letter(bag: Bag, i: int) -> str:
    return f", {POLICY_LETTERS[i]}" if len(bag.replays) > 1 else ""


def _name_style(bag: Bag, i: int) -> str:
    return f"name{i}" if len(bag.replays) > 1 else ""


def _spans(bag: Bag, x: Scale, y: float, spans: tuple[Span, ...], is_mode: bool) -> list[str]:
    parts = []
    for span in spans:
        start_s, end_s = bag.seconds(span.start_ns), bag.seconds(span.end_ns)
        left, right = x(max(start_s, 0.0)), x(min(end_s, x.high))
        label = MODE_NAMES.get(span.label, span.label) if is_mode else span.label or "no instruction"
        style = f"mode mode-{span.label or 'none'}" if is_mode else "episode"
        parts.append(rect(left, y, right - left, BAND_HEIGHT, style, f"{label}: {start_s:.1f} s to {end_s:.1f} s"))
        parts.append(text(left + 5, y + 14, fitted(label, right - left - 8), f"{style}-text"))
    return parts


def _events(bag: Bag, replay: Replay, x: Scale, y: float) -> list[str]:
    """A symbol for each event; those of one kind that would touch are one, with their number."""
    parts = []
    for kind in ("limit", "processor", "watchdog"):  # the gravest on top
        groups: list[list[Event]] = []
        for event in sorted((e for e in replay.events if e.kind == kind), key=lambda e: e.time_ns):
            if groups and x(bag.seconds(event.time_ns)) - x(bag.seconds(groups[-1][0].time_ns)) < MIN_MARK_GAP:
                groups[-1].append(event)
            else:
                groups.append([event])
        for group in groups:
            at_s = bag.seconds(group[0].time_ns)
            num_times = sum(event.num_times for event in group)
            more = f" (and {num_times - 1} more)" if num_times > 1 else ""
            parts.append(event_symbol(kind, x(at_s), y, f"{EVENT_NAMES[kind]} at {at_s:.2f} s: {group[0].line}{more}"))
    return parts


def event_symbol(kind: str, x: float, y: float, tip: str) -> str:
    """Told apart by its shape as well as by its colour."""
    outlines = {
        "watchdog": f"M{x:.1f} {y - 7:.1f}l6.5 12h-13z",
        "limit": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        "processor": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
    }
    return shape(outlines[kind], f"event-{kind}", tip)


def _error_curve(bag: Bag, replay: Replay, error: np.ndarray, x: Scale, y: Scale, i: int) -> list[str]:
    times_ns = np.array([chunk.header_ns for chunk in replay.chunks], np.int64)
    is_compared = np.array([chunk.driver in bag.compared_drivers for chunk in replay.chunks], bool)
    pixel_s = x.high / (x.end - x.start)
    parts = []
    for shown, style in ((is_compared, f"policy{i}"), (~is_compared, f"policy{i} faint")):
        whole = broken_at_gaps(times_ns, np.where(shown, error, np.nan), MAX_CHUNK_GAP_S)
        times_s = bag.all_seconds(whole.times_ns)
        kept = thinned(times_s, whole.values, 1.5 * pixel_s)
        parts.append(path(curve(x.of(times_s[kept]), y.of(whole.values[kept])), f"curve thin {style}"))
    times_s = bag.all_seconds(times_ns)
    for k in thinned(times_s, error, 6 * pixel_s).tolist():
        if not np.isfinite(error[k]):
            continue
        driver = replay.chunks[k].driver or "driver unknown"
        tip = f"{replay.policy}, {times_s[k]:.2f} s: {percent(error[k] / 100)} of range, {driver}"
        px, py = x(float(times_s[k])), y(float(error[k]))
        style = f"dot{i}" if is_compared[k] else f"dot{i} faint"
        parts.append(shape(f"M{px - 2:.1f} {py:.1f}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0", style, tip))
    return parts


def _marks(bag: Bag, x: Scale, top: float, bottom: float) -> list[str]:
    """The worst moments, by their number; a label that would lie on another goes into its neighbour's place."""
    parts, last = [], -np.inf
    for mark in sorted(bag.marks, key=lambda mark: mark.time_ns):
        px = x(bag.seconds(mark.time_ns))
        label = max(px, last + 17)
        last = label
        tip = f"Worst moment {mark.number}: {bag.replays[mark.policy].policy}, {bag.seconds(mark.time_ns):.2f} s"
        parts.append(line(px, top, px, bottom, "mark"))
        parts.append(f'<a href="#moment-{mark.number}">')
        parts.append(shape(f"M{label - 8:.1f} 9a8 8 0 1 0 16 0a8 8 0 1 0 -16 0", "mark-disc", tip))
        parts.append(text(label, 13, str(mark.number), "mark-text", "middle") + "</a>")
    return parts


def _joint_panel(bag: Bag, joint: int, name: str, x: Scale, top: float) -> list[str]:
    first, bottom = bag.first, top + JOINT_HEIGHT
    joint_range = float(ranges_of(first)[joint])
    shown = [first.recorded_commands.values[:, joint], first.joints.values[:, joint]]
    for replay in bag.replays:
        shown += [replay.commands.values[:, joint], *(chunk.positions[:, joint] for chunk in replay.chunks)]
    y = span_scale(shown, bottom - 3, top + 3, min_span=0.02 * joint_range if np.isfinite(joint_range) else 1e-3)
    parts = [rect(LEFT, top, RIGHT - LEFT, JOINT_HEIGHT, "panel"), *_mode_tint(bag, x, top)]
    parts += value_axis(y, LEFT, RIGHT) + time_axis_lines(x, top, bottom)
    parts.append(text(0, top + 16, fitted(name, LEFT - 44, 7.0), "joint"))
    for i, replay in enumerate(bag.replays):
        compared = [chunk for chunk in replay.chunks if chunk.driver in bag.compared_drivers]
        offs = [abs(chunk.positions - reference_of(replay, chunk))[:, joint] for chunk in compared]
        error = float(mean_of_known(np.array(offs))) / joint_range
        words = f"off by {percent(error)}{_letter(bag, i)}" if np.isfinite(error) else ""
        parts.append(text(0, top + 34 + 15 * i, words, f"soft {_name_style(bag, i)}"))
        parts.append(path(_fans(bag, replay, joint, x, y), f"fan policy{i}"))
    for i, replay in enumerate(bag.replays):
        parts.append(_series(bag, replay.commands, joint, x, y, f"curve broad policy{i}"))
    parts.append(_series(bag, first.joints, joint, x, y, "curve measured"))
    parts.append(_series(bag, first.recorded_commands, joint, x, y, "curve recorded"))
    return parts


def time_axis_lines(x: Scale, top: float, bottom: float) -> list[str]:
    """The vertical lines of a time axis alone."""
    return [part for part in time_axis(x, bottom, top, "") if part.startswith("<line")]


def _mode_tint(bag: Bag, x: Scale, top: float) -> list[str]:
    """Where a human or nobody drove, shaded."""
    return [
        rect(
            x(max(bag.seconds(span.start_ns), 0.0)),
            top,
            x(bag.seconds(span.end_ns)) - x(bag.seconds(span.start_ns)),
            JOINT_HEIGHT,
            f"tint mode-{span.label}",
        )
        for span in bag.first.modes
        if span.label in (Mode.TELEOP, Mode.HOLD, Mode.ESTOP)
    ]


def _series(bag: Bag, series: Series, joint: int, x: Scale, y: Scale, style: str) -> str:
    if not len(series):
        return ""
    whole = broken_at_gaps(series.times_ns, series.values[:, joint])
    times_s = bag.all_seconds(whole.times_ns)
    is_inside = (times_s >= 0) & (times_s <= x.high)
    times_s, values = times_s[is_inside], whole.values[is_inside]
    kept = thinned(times_s, values, x.high / (x.end - x.start))
    return path(curve(x.of(times_s[kept]), y.of(values[kept])), style)


def _fans(bag: Bag, replay: Replay, joint: int, x: Scale, y: Scale) -> str:
    """So many of the chunks that they can be told apart."""
    parts, last = [], -np.inf
    for chunk in replay.chunks:
        start = x(bag.seconds(chunk.header_ns))
        if start - last < MIN_FAN_GAP:
            continue
        last = start
        times_s = bag.all_seconds(chunk.due_ns)
        num_inside = int((times_s <= x.high).sum())
        kept = np.unique(np.linspace(0, num_inside - 1, MAX_FAN_POINTS).astype(int)) if num_inside else []
        parts.append(curve(x.of(times_s[kept]), y.of(chunk.positions[kept, joint])))
    return "".join(parts)
