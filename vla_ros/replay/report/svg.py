"""SVG as text: scales, ticks, curves thinned to what can be seen. Colours and fonts are the page's, by class name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import cv2
import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.units import NS_PER_S

Values = TypeVar("Values", float, np.ndarray)

NARROWEST = 0.65
"""A picture on a narrow screen shrinks to this part of its width, then scrolls."""
STRAIGHT = 0.15
"""Pixels by which a drawn curve may pass beside a sample."""


@dataclass(frozen=True)
class Scale:
    """Linear: ``low`` is drawn at pixel ``start``, ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, values: Values) -> Values:
        """Pixels of ``values``, of the same shape."""
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def pixel(self) -> float:
        """How much one pixel stands for."""
        return abs((self.high - self.low) / (self.end - self.start))


def span_scale(parts: list[np.ndarray], start: float, end: float, min_span: float, low: float | None = None) -> Scale:
    """Holds every finite number of ``parts`` with a little room, and at least ``min_span``; from ``low`` on, if
    given."""
    known = np.concatenate([[] if low is None else [low], *(part[np.isfinite(part)] for part in parts)])
    bottom, top = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    missing = max(0.0, min_span - (top - bottom))
    room = 0.06 * (top - bottom + missing)
    if low is not None:
        return Scale(low, top + missing + room, start, end)
    return Scale(bottom - missing / 2 - room, top + missing / 2 + room, start, end)


def ticks(low: float, high: float, num_wanted: int) -> list[float]:
    """Round numbers between ``low`` and ``high``, about ``num_wanted``."""
    rough = (high - low) / max(num_wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.7 * rough)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def plain(value: float) -> str:
    """Up to three significant digits, a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    value = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}".replace("-", "\u2212")


def percent(fraction: float) -> str:
    """``0.0123`` is ``1.23 %``, in one piece where lines are broken."""
    value = 100 * fraction
    if 0 < abs(value) < 0.01:
        return "<0.01\u00a0%"
    if not math.isfinite(value) or 0 < abs(value) < 0.1:
        return f"{plain(value)}\u00a0%" if math.isfinite(value) else "–"
    return f"{value:,.{2 if abs(value) < 10 else 1}f}\u00a0%".replace("-", "\u2212")


def tick_label(value: float) -> str:
    return f"{value:.6g}".replace("-", "\u2212")


def thinned(times: np.ndarray, values: np.ndarray, column: float) -> np.ndarray:
    """Indices that draw the same curve: where samples crowd, the lowest and highest of each ``column`` of ``times``, so
    that no peak is lost. ``times`` increase; a column of NaN keeps one, which interrupts the curve."""
    if len(times) < 2 or len(times) <= 2 * (times[-1] - times[0]) / column:
        return np.arange(len(times))
    columns = np.floor((times - times[0]) / column).astype(np.int64)
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    by_value = np.lexsort((values, columns))  # NaN comes last in its column
    num_finite = np.add.reduceat(np.isfinite(values).astype(np.int64), starts)
    return np.union1d(by_value[starts], by_value[starts + np.maximum(num_finite, 1) - 1])


def curve(x: np.ndarray, y: np.ndarray) -> str:
    """The ``d`` of a path through pixels ``x``, ``y`` without the points that lie on the way from one to another, to
    within ``STRAIGHT``; NaN interrupts it."""
    points = np.column_stack([x, y]).astype(np.float32)
    edges = np.flatnonzero(np.diff(np.isfinite(y), prepend=False, append=False)).reshape(-1, 2)
    corners = (cv2.approxPolyDP(points[a:b], STRAIGHT, closed=False)[:, 0] for a, b in edges)
    return "".join("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in part.tolist()) for part in corners)


def thin_curve(series: TimeSeries, x: Scale, y: Scale, start_ns: int, column: float = 1.0) -> str:
    """The ``d`` of a path through ``series``, as far as ``x``, in seconds since ``start_ns``, goes; where samples crowd
    within ``column`` pixels, through the lowest and highest of them."""
    shown = series.between(start_ns + x.low * NS_PER_S, start_ns + x.high * NS_PER_S)
    times_s = (shown.times_ns - start_ns) / NS_PER_S
    kept = thinned(times_s, shown.values, column * x.pixel)
    return curve(x(times_s[kept]), y(shown.values[kept]))


def fitted(words: str, width: float, char_width: float = 7.4) -> str:
    """As much of ``words`` as fits into ``width`` pixels, with an ellipsis where it is cut; empty where none does."""
    num_chars = int(width / char_width)
    if len(words) <= num_chars:
        return words
    return words[: num_chars - 1].rstrip() + "…" if num_chars > 3 else ""


class Drawing:
    """A picture, shape by shape: what comes later lies on top. A ``style`` is class names of the page's style sheet; a
    ``tip`` is shown where the pointer rests."""

    def __init__(self) -> None:
        self._shapes: list[str] = []

    def svg(self, width: float, height: float, label: str, is_inline: bool = False) -> str:
        """All of it; ``label`` says in words what it shows. ``is_inline``: in a line of text."""
        size = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, quote=True)}"'
        if is_inline:
            opening = f'<svg class="small" width="{width:g}" height="{height:g}" {size}>'
        else:
            opening = f'<svg {size} style="min-width:{NARROWEST * width:.0f}px;max-width:{width:g}px">'
        return opening + "".join(self._shapes) + "</svg>"

    @contextmanager
    def link(self, target: str) -> Iterator[None]:
        """Whatever is drawn within leads to ``target``."""
        self._shapes.append(f'<a href="{target}">')
        yield
        self._shapes.append("</a>")

    def path(self, d: str, style: str, tip: str = "") -> None:
        """Nothing where ``d`` is empty."""
        if d:
            closing = f"><title>{escape(tip)}</title></path>" if tip else "/>"
            self._shapes.append(f'<path class="{style}" d="{d}"{closing}')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._shapes.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def dots(self, x: np.ndarray, y: np.ndarray, style: str) -> None:
        """A round dot at each point, as wide as the stroke of ``style``."""
        d = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in zip(x.tolist(), y.tolist(), strict=True))
        self.path(d, f"dots {style}")

    def disc(self, x: float, y: float, radius: float, style: str, tip: str) -> None:
        arc = f"a{radius:g} {radius:g} 0 1 0"
        self.path(f"M{x - radius:.1f} {y:.1f}{arc} {2 * radius:g} 0{arc} -{2 * radius:g} 0", style, tip)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self._shapes.append(f'<text class="{style}" {place}>{escape(words)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, style: str, tip: str = "") -> None:
        size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        title = f"<title>{escape(tip)}</title>" if tip else ""
        self._shapes.append(f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" {size}>{title}</rect>')

    def time_axis(self, x: Scale, y: float, top: float, unit: str, num_wanted: int = 10) -> None:
        """Ticks below ``y`` with lines up to ``top``; the last one names the unit."""
        for value in ticks(x.low, x.high, num_wanted):
            self.line(x(value), top, x(value), y, "grid")
            self.text(x(value), y + 15, tick_label(value), "tick", "middle")
        self.text(x.end, y + 30, unit, "tick", "end")

    def value_axis(self, y: Scale, x: Scale, num_wanted: int = 4, unit: str = "", is_count: bool = False) -> None:
        """Ticks left of the chart with lines through it; of a count at whole numbers only."""
        for value in ticks(y.low, y.high, num_wanted):
            if not is_count or value == round(value):
                self.line(x.start, y(value), x.end, y(value), "grid")
                self.text(x.start - 6, y(value) + 4, tick_label(value) + unit, "tick", "end")
