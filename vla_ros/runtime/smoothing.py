"""Commands with bounded jerk: the mean of a motion that keeps every other limit, over a window of control periods."""

from __future__ import annotations

import numpy as np


class JerkSmoother:
    """The mean velocity of a leading motion over its last control periods, as many for a joint as its jerk needs.

    The leading motion (``positions`` and ``velocities``) goes ahead of the commands by half the window, ``delay_s``.
    Its acceleration stays within ``a`` either way, so that of a mean over ``n`` periods changes by at most ``2·a/n`` in
    a period: ``n = 2·a/(j·dt)`` periods keep jerk ``j``. All other limits allow a convex set of states, the distance to
    stop in, too, which is convex in velocity; the mean of states that keep them keeps them. A mean of constants is the
    constant: there is no loop to oscillate, and what the leading motion reaches, the commands reach a window later.
    """

    def __init__(self, max_acceleration: np.ndarray, max_jerk: np.ndarray, period_s: float) -> None:
        """``max_acceleration``, ``max_jerk`` ``[num_joints]``; an infinite jerk takes a window of one: no smoothing."""
        # Rounding must not make a window of 10 periods one of 11.
        num_periods = np.maximum(np.ceil(2.0 * max_acceleration / (max_jerk * period_s) - 1e-9), 1.0)
        ages = np.arange(max(int(num_periods.max()), 2))[:, None]
        self._weights = np.where(ages < num_periods, 1.0 / num_periods, 0.0)
        self._window = np.zeros_like(self._weights)
        self._dt = period_s
        self.delay_s = 0.5 * (num_periods - 1.0) * period_s
        self.positions = np.zeros_like(num_periods)
        self.velocities = np.zeros_like(num_periods)

    def restart(self, positions: np.ndarray, velocities: np.ndarray, joints: np.ndarray | slice = slice(None)) -> None:
        """Go on from a command as if it had been reached at constant velocity; ``joints`` is a mask, else all."""
        self._window[:, joints] = velocities[joints]
        self.velocities = self._window[0].copy()
        self.positions = self.positions.copy()
        self.positions[joints] = (positions + velocities * self.delay_s)[joints]

    def jerks(self, velocities: np.ndarray) -> np.ndarray:
        """The jerk ``[num_joints]`` of the leading motion itself, were it to go on with ``velocities``."""
        return (velocities - 2.0 * self._window[0] + self._window[1]) / self._dt**2

    def add(self, velocities: np.ndarray) -> np.ndarray:
        """The command's velocities ``[num_joints]`` when the leading motion goes on with ``velocities``."""
        self.positions = self.positions + 0.5 * self._dt * (self.velocities + velocities)
        self.velocities = velocities
        self._window[1:] = self._window[:-1]
        self._window[0] = velocities
        return (self._weights * self._window).sum(axis=0)
