"""The simulated arm's trajectory controller: takes and follows trajectories as joint_trajectory_controller does.

As that controller is meant to be set for this package: ``interpolate_from_desired_state`` true,
``allow_nonzero_velocity_at_trajectory_end`` false, partial joint goals refused (joint names are matched by whoever
reads the message).
"""

from __future__ import annotations

import numpy as np

from vla_ros.hermite import hermite
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
        self._velocities = np.zeros_like(self._positions)
        self._times_s = np.zeros(1)
        self._cubic = False

    def accept(self, trajectory: Trajectory, now_s: float, start_s: float | None = None) -> str:
        """Replace the current trajectory; returns why the new one is refused, or an empty string.

        Its times count from ``start_s`` (None: from ``now_s``). Until its first point it runs from the state that is
        desired now: a cubic where velocities are given, else a line.
        """
        refusal = self._refusal(trajectory, now_s, start_s)
        if refusal:
            return refusal
        desired_position, desired_velocity = self.sample(now_s)
        times_s = trajectory.times_s + (now_s if start_s is None else start_s)
        ahead = times_s > now_s
        self._times_s = np.concatenate([[now_s], times_s[ahead]])
        self._positions = np.vstack([desired_position, trajectory.positions[ahead]])
        self._cubic = trajectory.velocities is not None
        velocities = trajectory.velocities if self._cubic else np.zeros_like(trajectory.positions)
        self._velocities = np.vstack([desired_velocity, velocities[ahead]])
        return ""

    def sample(self, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Desired positions and velocities ``[num_joints]`` at ``now_s``; times must not run backwards."""
        after = int(np.searchsorted(self._times_s, now_s, side="right"))
        if after == len(self._times_s):
            return self._positions[-1].copy(), np.zeros_like(self._positions[-1])
        before = max(after - 1, 0)
        duration_s = self._times_s[after] - self._times_s[before]
        x = (now_s - self._times_s[before]) / duration_s
        p0, p1 = self._positions[before], self._positions[after]
        if not self._cubic:
            return p0 + x * (p1 - p0), (p1 - p0) / duration_s
        return hermite(x, duration_s, (p0, self._velocities[before]), (p1, self._velocities[after]))

    def _refusal(self, trajectory: Trajectory, now_s: float, start_s: float | None) -> str:
        times_s, positions, velocities = trajectory.times_s, trajectory.positions, trajectory.velocities
        num_joints = self._positions.shape[1]
        shapes = [np.shape(positions)] + ([] if velocities is None else [np.shape(velocities)])
        if not len(times_s) or any(shape != (len(times_s), num_joints) for shape in shapes):
            return f"{len(times_s)} times for values of shape {shapes}; expected ({len(times_s)}, {num_joints})"
        if times_s[0] < 0 or (np.diff(times_s) <= 0).any():
            return "times are not strictly increasing from 0 s on"
        if velocities is not None and np.abs(velocities[-1]).max() > MAX_END_VELOCITY:
            return f"the last velocity is {np.abs(velocities[-1]).max():g}; expected 0: end with a braking ramp"
        if start_s is not None and start_s + times_s[-1] < now_s:
            return f"it ended {now_s - start_s - times_s[-1]:.3f} s ago; check the clocks or stamp it 0"
        return ""
