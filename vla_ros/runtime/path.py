"""A smooth curve through timed set points: where the joints should be at any moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.interpolate import hermite_at
from vla_ros.types import ActionChunk
from vla_ros.units import NS_PER_S


@dataclass(frozen=True)
class Target:
    """Where the joints should be, unbounded: ``positions`` and ``velocities`` ``[num_joints]``."""

    positions: np.ndarray
    velocities: np.ndarray


class Path:
    """Piecewise cubic through ``positions`` ``[num_points, num_joints]`` at ``times_ns``; it never overshoots a point.

    The slope at a point is the harmonic mean of the slopes around it, and 0 where they differ in sign (Fritsch and
    Butland, 1984).
    """

    def __init__(self, times_ns: list[int], positions: np.ndarray) -> None:
        assert len(times_ns) == len(positions) > 0
        self.first_ns = times_ns[0]
        self.last_ns = times_ns[-1]
        self._times_s = np.array([t - self.first_ns for t in times_ns]) / NS_PER_S
        self._positions = positions
        self._slopes = _slopes(self._times_s, positions)

    @property
    def end(self) -> np.ndarray:
        """The last point ``[num_joints]``."""
        return self._positions[-1]

    def at(self, t_ns: int) -> Target | None:
        """The target at ``t_ns``: the first point at rest before its time, None after the last one's."""
        if t_ns > self.last_ns:
            return None
        if t_ns <= self.first_ns:
            return Target(self._positions[0], np.zeros_like(self._positions[0]))
        t_s = (t_ns - self.first_ns) / NS_PER_S
        return Target(*hermite_at(t_s, self._times_s, self._positions, self._slopes))


def path_of(chunk: ActionChunk, start_positions: np.ndarray) -> Path:
    """A chunk's path: from ``start_positions`` ``[num_joints]`` at its ``stamp_ns`` through its actions."""
    assert chunk.horizon > 0 and chunk.chunk_dt_s > 0
    times_ns = [chunk.due_ns(k) for k in range(chunk.horizon)]
    if times_ns[0] <= chunk.stamp_ns:
        return Path(times_ns, chunk.positions)
    return Path([chunk.stamp_ns, *times_ns], np.vstack((start_positions, chunk.positions)))


def blend(old: Target, new: Target, weight: float, weight_rate: float) -> Target:
    """From ``old`` at ``weight`` 0 to ``new`` at 1; ``weight_rate`` is the weight's derivative, 1/s."""
    gap = new.positions - old.positions
    velocities = old.velocities + weight * (new.velocities - old.velocities) + weight_rate * gap
    return Target(old.positions + weight * gap, velocities)


def smooth_step(elapsed_s: float, duration_s: float) -> tuple[float, float]:
    """A weight from 0 to 1 over ``duration_s``, level at both ends, and its derivative, 1/s."""
    if elapsed_s >= duration_s:
        return 1.0, 0.0
    u = max(elapsed_s, 0.0) / duration_s
    return u * u * (3 - 2 * u), 6 * u * (1 - u) / duration_s


class Ramp:
    """Leads a new driver's targets in, over ``duration_s``, from where the robot was commanded when the first one
    came."""

    def __init__(self, duration_s: float, period_ns: int) -> None:
        self._duration_s = duration_s
        self._period_ns = period_ns
        self._start: Target | None = None
        self._since_ns = 0

    def restart(self) -> None:
        """Another one drives next."""
        self._start = None

    def lead_in(self, target: Target | None, commanded: np.ndarray, due_ns: int) -> Target | None:
        """``target`` at ``due_ns``, drawn towards ``commanded`` ``[num_joints]`` at first."""
        if target is None or self._duration_s == 0:
            return target
        if self._start is None:
            self._start, self._since_ns = Target(commanded, np.zeros_like(commanded)), due_ns - self._period_ns
        return blend(self._start, target, *smooth_step((due_ns - self._since_ns) / NS_PER_S, self._duration_s))


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
