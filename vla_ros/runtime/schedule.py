"""Which position the policy wants at a moment: action chunks laid out in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vla_ros.types import ActionChunk

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Target:
    """Where the joints should be, unbounded: ``positions`` and ``velocities`` ``[num_joints]``."""

    positions: np.ndarray
    velocities: np.ndarray


class Scheduler(Protocol):
    """Turns the chunks that arrive into a target for any moment."""

    def offer(self, chunk: ActionChunk, start_positions: np.ndarray) -> None:
        """Take a new chunk; ``start_positions`` ``[num_joints]`` is the command in force at its ``stamp_ns``."""

    def target(self, t_ns: int) -> Target | None:
        """The target at ``t_ns``; None where no chunk reaches that far."""

    def clear(self) -> None:
        """Forget every chunk."""


class LatestScheduler:
    """The newest chunk alone decides, from the moment it arrives."""

    def __init__(self) -> None:
        self._path: _Path | None = None

    def offer(self, chunk: ActionChunk, start_positions: np.ndarray) -> None:
        self._path = _Path(chunk, start_positions)

    def target(self, t_ns: int) -> Target | None:
        return self._path.at(t_ns) if self._path is not None else None

    def clear(self) -> None:
        self._path = None


class _Path:
    """One chunk as a smooth curve through its actions: piecewise cubic that never overshoots an action.

    The slope at an action is the harmonic mean of the slopes around it, and 0 where they differ in sign (Fritsch and
    Butland, 1984).
    """

    def __init__(self, chunk: ActionChunk, start_positions: np.ndarray) -> None:
        assert chunk.horizon > 0 and chunk.chunk_dt_s > 0
        times_ns = [chunk.due_ns(k) for k in range(chunk.horizon)]
        positions = chunk.positions
        if times_ns[0] > chunk.stamp_ns:
            times_ns.insert(0, chunk.stamp_ns)
            positions = np.vstack((start_positions, positions))
        self._origin_ns = times_ns[0]
        self._last_ns = times_ns[-1]
        self._times_s = np.array([t - self._origin_ns for t in times_ns]) / NS_PER_S
        self._positions = positions
        self._slopes = _slopes(self._times_s, positions)

    def at(self, t_ns: int) -> Target | None:
        if t_ns > self._last_ns:
            return None
        if t_ns <= self._origin_ns:
            return Target(self._positions[0], np.zeros_like(self._positions[0]))
        t_s = (t_ns - self._origin_ns) / NS_PER_S
        after = min(int(np.searchsorted(self._times_s, t_s)), len(self._times_s) - 1)
        span_s = self._times_s[after] - self._times_s[after - 1]
        u = (t_s - self._times_s[after - 1]) / span_s
        p0, p1 = self._positions[after - 1], self._positions[after]
        m0, m1 = self._slopes[after - 1] * span_s, self._slopes[after] * span_s
        positions = p0 + u * (m0 + u * (3 * (p1 - p0) - 2 * m0 - m1 + u * (2 * (p0 - p1) + m0 + m1)))
        velocities = (m0 + u * (2 * (3 * (p1 - p0) - 2 * m0 - m1) + u * 3 * (2 * (p0 - p1) + m0 + m1))) / span_s
        return Target(positions, velocities)


def _slopes(times_s: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Slopes ``[num_points, num_joints]`` at the points; at the two ends, the slope of the segment there."""
    if len(times_s) == 1:
        return np.zeros_like(positions)
    segments = np.diff(positions, axis=0) / np.diff(times_s)[:, None]
    before, after = segments[:-1], segments[1:]
    product = before * after
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(product > 0, 2 * product / (before + after), 0.0)
    return np.vstack((segments[:1], inner, segments[-1:]))
