"""The chart along a bag's time: who drove, what would have stopped the robot, how far off the policy was."""

from __future__ import annotations

import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.records import Incident, Replay, Stretch
from vla_ros.replay.report import svg
from vla_ros.replay.report.bags import Bag

WIDTH, LEFT, RIGHT = 1000.0, 150.0, 990.0
BAND_HEIGHT, LANE_HEIGHT, ERROR_HEIGHT = 20.0, 22.0, 120.0
MAX_CHUNK_GAP_S = 1.5
MIN_MARK_GAP = 7.0
POLICY_LETTERS = "AB"
INCIDENT_NAMES = {"watchdog": "Watchdog", "limit": "Limit", "processor": "Refused"}


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
        tip = f"Worst moment {one.number}: {one.replay.policy}, {at_s:.2f} s"
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
