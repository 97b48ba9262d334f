"""A replay beside its baseline: bags and chunks in pairs, columns in step with each other, and how a difference is
told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.record import BagRecord, Baseline, ChunkRecord
from vla_ros.replay.records import by_observation
from vla_ros.units import NS_PER_S

BAG, SETTING, INPUT, BEHAVIOUR, FILE = "bag", "setting", "input", "behaviour", "file"
MIN_ROWS = 4
MIN_CORRELATION = 0.9999
MIN_MOTION = 1e-4

Value = float | str | None


@dataclass(frozen=True)
class Difference:
    """``what`` differs, of kind BAG, SETTING, INPUT, BEHAVIOUR or FILE.

    ``bag``, ``time_ns`` (``time_s`` since the bag's start) and ``joint`` say where, as far as it is anywhere;
    ``tolerance`` by how much numbers may differ.
    """

    kind: str
    what: str
    got: Value
    expected: Value
    bag: str = ""
    time_ns: int | None = None
    time_s: float | None = None
    joint: str = ""
    tolerance: float | None = None

    @property
    def line(self) -> str:
        """All of it in one line."""
        where = [f"bag '{self.bag}'"] if self.bag else []
        where += [f"at {self.time_s:.3f} s"] if self.time_s is not None else []
        where += [f"joint '{self.joint}'"] if self.joint else []
        allowed = "" if self.tolerance is None else f" (tolerance {self.tolerance:g})"
        place = f"{', '.join(where)}: " if where else ""
        return f"{self.kind}: {place}{self.what}: got {_text(self.got)}, expected {_text(self.expected)}{allowed}"


@dataclass(frozen=True)
class ChunkPair:
    """The chunks of one observation of ``bag``, now and in the baseline."""

    bag: BagPair
    got: ChunkRecord
    expected: ChunkRecord

    @property
    def has_positions(self) -> bool:
        return self.got.positions is not None and self.expected.positions is not None

    @property
    def deviation(self) -> np.ndarray:
        """By how much the actions differ, ``[horizon, num_joints]``."""
        return self.got.positions - self.expected.positions

    def differ(self, kind: str, what: str, got: Value, expected: Value, **place: Any) -> Difference:
        """A difference that shows in this chunk."""
        return self.bag.differ(kind, self.expected.header_ns, what, got, expected, **place)


class BagPair:
    """``got`` beside ``expected``, with the baseline's joints; ``added`` and ``missing`` are chunks without another,
    by their ``header_ns``."""

    def __init__(self, got: BagRecord, expected: BagRecord) -> None:
        self.got, self.expected = got, expected
        here, there = by_observation(got.chunks), by_observation(expected.chunks)
        self.chunks = [ChunkPair(self, here[key], there[key]) for key in sorted(here.keys() & there.keys())]
        self.added, self.missing = (sorted(ns for ns, _ in keys) for keys in (here.keys() - there, there.keys() - here))

    @property
    def comparable(self) -> list[ChunkPair]:
        """Chunks whose actions both sides have."""
        return [p for p in self.chunks if p.has_positions and p.got.positions.shape == p.expected.positions.shape]

    def differ(
        self, kind: str, time_ns: int | None, what: str, got: Value, expected: Value, **place: Any
    ) -> Difference:
        """A difference in this bag; ``place`` may have its joint and tolerance."""
        time_s = None if time_ns is None else (time_ns - self.expected.start_ns) / NS_PER_S
        return Difference(kind, what, got, expected, self.expected.name, time_ns, time_s, **place)


def pair_bags(now: Baseline, baseline: Baseline) -> list[BagPair]:
    """The bags that both have, in the baseline's order; both have the same joints."""
    columns = [now.joint_names.index(name) for name in baseline.joint_names]
    by_name = {bag.name: _in_order(bag, columns) for bag in now.bags}
    return [BagPair(by_name[bag.name], bag) for bag in baseline.bags if bag.name in by_name]


def _in_order(bag: BagRecord, columns: list[int]) -> BagRecord:
    chunks = tuple(
        chunk if chunk.positions is None else replace(chunk, positions=chunk.positions[:, columns])
        for chunk in bag.chunks
    )
    return replace(bag, chunks=chunks, commands=TimeSeries(bag.commands.times_ns, bag.commands.values[:, columns]))


def in_step(got: np.ndarray, expected: np.ndarray) -> list[int | None]:
    """For each column of ``got`` [num_rows, num_columns] the column of ``expected``, of the same shape, that it is in
    step with, up to an offset and a positive factor: its own where that is one of them, None where nothing is.

    Rows where either is NaN are left out; it takes ``MIN_ROWS`` and some motion.
    """
    partners: list[int | None] = []
    for own, column in enumerate(got.T):
        correlations = [_correlation(column, other) for other in expected.T]
        best = own if correlations[own] >= MIN_CORRELATION else int(np.argmax(correlations))
        partners.append(best if correlations[best] >= MIN_CORRELATION else None)
    return partners


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """-1, too, where it is not known."""
    is_known = np.isfinite(a) & np.isfinite(b)
    a, b = a[is_known], b[is_known]
    if len(a) < MIN_ROWS or min(a.std(), b.std()) < MIN_MOTION:
        return -1.0
    return float(np.corrcoef(a, b)[0, 1])


def _text(value: Value) -> str:
    if value is None:
        return "nothing"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
