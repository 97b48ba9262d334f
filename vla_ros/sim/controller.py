"""The simulated arm's trajectory controller: takes and follows trajectories as joint_trajectory_controller does.

As that controller is meant to be set for this package: ``interpolate_from_desired_state`` true,
``allow_nonzero_velocity_at_trajectory_end`` false, partial joint goals refused (joint names are matched by whoever
reads the message).
"""

from __future__ import annotations

import numpy as np

from vla_ros.interpolate import hermite_at
from vla_ros.messages.trajectories import Trajectory

MAX_END_VELOCITY = 1e-5
"""Largest velocity, rad/s, that still counts as standing at a trajectory's end."""


class TrajectoryController:
    """Follows one trajectory at a time and holds its last point. All times are s on one clock, the caller's."""

    def __init__(self, positions: np.ndarray) -> None:
        self.reset(positions)

    def reset(self, positions: np.ndarray) -> None:
        """Drop the trajectory and hold ``positions`` ``[num_joints]``, at rest."""
        self._positions = np.array([positions], dtype=np.float64)
        self._velocities: np.ndarray | None = None
        self._times_s = np.zeros(1)

    def accept(self, trajectory: Trajectory, now_s: float, start_s: float | None = None) -> None:
        """Replace the current trajectory by one that is well-formed, as ``messages.trajectories`` reads them.

        Its times count from ``start_s`` (None: from ``now_s``). Until its first point it runs from the state that is
        desired now: a cubic where velocities are given, else a line. Raises ValueError for one that is refused.
        """
        times_s, velocities = trajectory.times_s + (now_s if start_s is None else start_s), trajectory.velocities
        if velocities is not None and np.abs(velocities[-1]).max() > MAX_END_VELOCITY:
            got = f"the last velocity is {np.abs(velocities[-1]).max():g}"
            raise ValueError(f"{got}; expected 0: end with a braking ramp")
        if times_s[-1] < now_s:
            raise ValueError(f"it ended {now_s - times_s[-1]:.3f} s ago; check the clocks or stamp it 0")
        desired_position, desired_velocity = self.sample(now_s)
        ahead = times_s > now_s
        self._times_s = np.concatenate([[now_s], times_s[ahead]])
        self._positions = np.vstack([desired_position, trajectory.positions[ahead]])
        self._velocities = None if velocities is None else np.vstack([desired_velocity, velocities[ahead]])

    def sample(self, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Desired positions and velocities ``[num_joints]`` at ``now_s``; times must not run backwards."""
        if now_s >= self._times_s[-1]:
            return self._positions[-1].copy(), np.zeros_like(self._positions[-1])
        if self._velocities is not None:
            return hermite_at(now_s, self._times_s, self._positions, self._velocities)
        before = int(np.searchsorted(self._times_s, now_s, side="right")) - 1
        way, duration_s = np.diff(self._positions, axis=0)[before], np.diff(self._times_s)[before]
        return self._positions[before] + (now_s - self._times_s[before]) / duration_s * way, way / duration_s
