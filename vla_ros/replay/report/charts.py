"""The charts over everything that was replayed: error by step ahead, latency, and the bars in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from vla_ros.replay.judge.paired import PairedDifference
from vla_ros.replay.judge.summary import PolicySummary
from vla_ros.replay.report import svg

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 490.0, 250.0, 52.0, 480.0, 12.0, 206.0
NUM_BINS = 30
# A few stragglers don't squeeze the rest of the latencies.
SHOWN_QUANTILE = 0.995


def step_errors(policies: Sequence[PolicySummary]) -> str:
    """Error by how far ahead a policy looked."""
    lines = [
        (i, errors.by_step_fraction * 100, style)
        for i, policy in enumerate(policies)
        for errors, style in ((policy.measured, "dashed"), (policy.commanded, ""))
        if errors.is_known
    ]
    x = svg.Scale(0.0, max(float(policy.ahead_s.max()) for policy in policies), LEFT, RIGHT)
    y = svg.span_scale([values for _, values, _ in lines], BOTTOM, TOP, min_span=0.5, low=0.0)
    drawing = svg.Drawing()
    drawing.time_axis(x, BOTTOM, TOP, "seconds after the camera image", 6)
    drawing.value_axis(y, x, 4, " %")
    for i, values, style in lines:
        ahead_s = policies[i].ahead_s
        drawing.path(svg.curve(x(ahead_s), y(values)), f"curve wide policy{i} {style}")
        for k in np.flatnonzero(np.isfinite(values)) if not style else ():
            which = f"{policies[i].name}, action {k + 1}, {ahead_s[k]:.2f} s ahead"
            tip = f"{which}: {svg.percent(values[k] / 100)} of range"
            drawing.disc(x(ahead_s[k]), y(values[k]), 2.5, f"dot{i}", tip)
    return drawing.svg(WIDTH, HEIGHT, "Error by time ahead")


def latency_histogram(policies: Sequence[PolicySummary]) -> str:
    """How often an answer took how long, with the median and the slowest hundredth."""
    # Their common bins begin at a round number.
    together = np.concatenate([policy.latencies_ms for policy in policies])
    low, high = float(together.min()), float(np.quantile(together, SHOWN_QUANTILE))
    room = max(0.08 * (high - low), 2.0)
    x = svg.Scale(max(0.0, low - room), high + room, LEFT, RIGHT)
    edges = np.linspace(x.low, x.high, NUM_BINS + 1)
    counts = [np.histogram(np.minimum(policy.latencies_ms, x.high), edges)[0] for policy in policies]
    y = svg.span_scale(counts, BOTTOM, TOP + 14, min_span=1.0, low=0.0)
    drawing = svg.Drawing()
    drawing.time_axis(x, BOTTOM, TOP, "milliseconds from camera image to answer", 6)
    drawing.value_axis(y, x, is_count=True)
    share = (x.end - x.start) / NUM_BINS / len(policies)
    for i, (policy, count) in enumerate(zip(policies, counts, strict=True)):
        for k in np.flatnonzero(count):
            more = " or more" if k == NUM_BINS - 1 and together.max() > x.high else ""
            tip = f"{policy.name}: {count[k]} answers in {edges[k]:.0f} to {edges[k + 1]:.0f} ms{more}"
            top = y(float(count[k]))
            drawing.rect(x(edges[k]) + i * share + 0.5, top, share - 1, BOTTOM - top, f"bar{i}", tip)
    for (i, policy), q in product(enumerate(policies), (50, 99)):
        at = x(min(policy.latency_ms(q), x.high))
        drawing.line(at, TOP + 12 * i, at, BOTTOM, f"quantile policy{i}")
        beside, anchor = (-3, "end") if at > x.end - 26 else (3, "start")
        drawing.text(at + beside, TOP + 9 + 12 * i, f"p{q}", f"tick name{i}", anchor)
    return drawing.svg(WIDTH, HEIGHT, "Latency histogram")


def difference_bar(difference: PairedDifference, others: Sequence[PairedDifference]) -> str:
    """The difference as a dot on its interval, beside zero; the largest of ``others`` in its unit is at the edges."""
    alike = np.array([(d.low, d.high, d.difference) for d in others if d.scale == difference.scale])
    widest = float(np.abs(alike[np.isfinite(alike)]).max(initial=0.0)) or 1.0
    x = svg.Scale(-1.05 * widest, 1.05 * widest, 6.0, 214.0)
    drawing = svg.Drawing()
    drawing.line(x(0), 0, x(0), 24, "zero")
    if math.isfinite(difference.low):
        low, high = x(difference.low), x(difference.high)
        drawing.path(f"M{low:.1f} 12H{high:.1f}M{low:.1f} 7v10M{high:.1f} 7v10", "interval")
    words = svg.plain(difference.difference * difference.scale)
    drawing.disc(x(difference.difference), 12, 4, "estimate", words)
    return drawing.svg(220, 24, f"Difference {words}", is_inline=True)
