"""The charts over everything that was replayed: error by step ahead, latency, and the bars in tables."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from vla_ros.replay.averages import mean_of_known
from vla_ros.replay.report.bags import ranges_of
from vla_ros.replay.report.content import Difference, PolicyResult, ReportInput
from vla_ros.replay.report.svg import (
    Scale,
    curve,
    line,
    path,
    percent,
    plain,
    rect,
    shape,
    span_scale,
    svg,
    text,
    ticks,
    time_axis,
    value_axis,
)

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 490.0, 250.0, 52.0, 480.0, 12.0, 206.0
NUM_BINS = 30
TABLE_BAR_PIXELS = 170.0


def step_errors(content: ReportInput) -> str:
    """Error by how far ahead a policy looked; empty where no chunk could be compared."""
    lines = [
        (i, policy, errors.by_step * 100, style)
        for i, policy in enumerate(content.policies)
        for errors, style in ((policy.from_motion, "dashed"), (policy.from_commands, ""))
        if np.isfinite(errors.by_step).any()
    ]
    if not lines:
        return ""
    ahead_s = {i: _ahead_s(policy) for i, policy, *_ in lines}
    x = Scale(0.0, max(float(times.max()) for times in ahead_s.values()), LEFT, RIGHT)
    y = span_scale([values for _, _, values, _ in lines], BOTTOM, TOP, min_span=0.5, low=0.0)
    parts = time_axis(x, BOTTOM, TOP, "seconds after the camera image", 6) + value_axis(y, LEFT, RIGHT, 4, " %")
    for i, policy, values, style in lines:
        parts.append(path(curve(x.of(ahead_s[i]), y.of(values)), f"curve wide policy{i} {style}"))
        for k in np.flatnonzero(np.isfinite(values)) if not style else ():
            px, py = x(float(ahead_s[i][k])), y(float(values[k]))
            tip = f"{policy.name}, action {k + 1}, {ahead_s[i][k]:.2f} s ahead: {percent(values[k] / 100)} of range"
            parts.append(shape(f"M{px - 2.5:.1f} {py:.1f}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0", f"dot{i}", tip))
    return svg(WIDTH, HEIGHT, "Error by time ahead", parts)


def _ahead_s(policy: PolicyResult) -> np.ndarray:
    """When each action of a chunk is due, after its observation."""
    chunk = next(chunk for replay in policy.replays for chunk in replay.chunks)
    return (chunk.due_ns - chunk.header_ns) / 1e9


def latency_histogram(content: ReportInput) -> str:
    """How often an answer took how long, with the median and the slowest hundredth; empty where there was no answer."""
    latencies = [policy.latencies_ms for policy in content.policies]
    if not any(len(values) for values in latencies):
        return ""
    # Their common bins begin at a round number and a few stragglers don't squeeze the rest.
    together = np.concatenate(latencies)
    low, high = float(together.min()), float(np.quantile(together, 0.995))
    room = max(0.08 * (high - low), 2.0)
    x = Scale(max(0.0, low - room), high + room, LEFT, RIGHT)
    edges = np.linspace(x.low, x.high, NUM_BINS + 1)
    counts = [np.histogram(np.minimum(values, x.high), edges)[0] for values in latencies]
    y = span_scale(counts, BOTTOM, TOP + 14, min_span=1.0, low=0.0)
    parts = time_axis(x, BOTTOM, TOP, "milliseconds from camera image to answer", 6)
    parts += [part for tick in _whole_ticks(y) for part in tick]
    width = (x.end - x.start) / NUM_BINS
    for i, (policy, count) in enumerate(zip(content.policies, counts, strict=True)):
        share = width / len(counts)
        for k in np.flatnonzero(count):
            left, top = x(float(edges[k])) + i * share, y(float(count[k]))
            more = " or more" if k == NUM_BINS - 1 and together.max() > x.high else ""
            tip = f"{policy.name}: {count[k]} answers in {edges[k]:.0f} to {edges[k + 1]:.0f} ms{more}"
            parts.append(rect(left + 0.5, top, share - 1, BOTTOM - top, f"bar{i}", tip))
    for i, values in enumerate(latencies):
        parts += _quantile_lines(x, values, i)
    return svg(WIDTH, HEIGHT, "Latency histogram", parts)


def _whole_ticks(y: Scale) -> list[list[str]]:
    return [
        [line(LEFT, y(value), RIGHT, y(value), "grid"), text(LEFT - 6, y(value) + 4, f"{value:.0f}", "tick", "end")]
        for value in ticks(y.low, y.high, 4)
        if value == round(value)
    ]


def _quantile_lines(x: Scale, values: np.ndarray, i: int) -> list[str]:
    parts = []
    for quantile, name in ((0.5, "p50"), (0.99, "p99")) if len(values) else ():
        at = x(min(float(np.quantile(values, quantile)), x.high))
        parts.append(line(at, TOP + 12 * i, at, BOTTOM, f"quantile policy{i}"))
        is_at_edge = at > x.end - 26
        parts.append(
            text(
                at + (-3 if is_at_edge else 3),
                TOP + 9 + 12 * i,
                name,
                f"tick name{i}",
                "end" if is_at_edge else "start",
            )
        )
    return parts


def joint_bar(fraction: float, widest: float, i: int, num_policies: int) -> str:
    """A joint's error as a bar; ``widest`` fills it."""
    if not math.isfinite(fraction) or widest <= 0:
        return ""
    width = TABLE_BAR_PIXELS / num_policies
    return small_svg(width, 12, percent(fraction), [rect(0, 1, max(1.0, width * fraction / widest), 10, f"bar{i}")])


def difference_bar(difference: Difference, widest: float) -> str:
    """The difference as a dot on its interval, beside zero; ``widest`` is at the edges."""
    x = Scale(-widest, widest, 6.0, 214.0)
    parts = [line(x(0), 0, x(0), 24, "zero")]
    value = difference.second - difference.first
    if math.isfinite(difference.low) and math.isfinite(difference.high):
        low, high = x(difference.low), x(difference.high)
        parts += [
            line(low, 12, high, 12, "interval"),
            line(low, 7, low, 17, "interval"),
            line(high, 7, high, 17, "interval"),
        ]
    if math.isfinite(value):
        parts.append(shape(f"M{x(value) - 4:.1f} 12a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", "estimate", plain(value)))
    return small_svg(220, 24, f"Difference {plain(value)}", parts)


def small_svg(width: float, height: float, label: str, parts: list[str]) -> str:
    """A picture in a line of text."""
    return (
        f'<svg class="small" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label, quote=True)}">' + "".join(parts) + "</svg>"
    )


def error_fraction(policy: PolicyResult, by_joint: np.ndarray) -> float:
    """Over all joints, as a fraction of their ranges."""
    return float(mean_of_known(by_joint / ranges_of(policy.replays[0])))
