"""The scripted expert: where the arm should go next, from the true place of the named block."""

from __future__ import annotations

import numpy as np

from vla_ros.messages.trajectories import Trajectory
from vla_ros.sim import kinematics
from vla_ros.sim.scene import Scene

TOUCH_HEIGHT_M = 0.008
"""How far above the block's top the tip comes to rest."""
APPROACH_SLOPE = 1.2
"""The tip keeps at least this height above the block's top for each metre of horizontal distance."""
MAX_APPROACH_HEIGHT_M = 0.12
GAIN_HZ = 3.0
MAX_JOINT_VELOCITY = 0.9
MAX_JOINT_ACCELERATION = 5.0


class Expert:
    """Feedback on its own last command: the pose above the target, approached through a funnel from above.

    The same command and the same block always give the same next command, so that a demonstration may start
    anywhere; no joint goes faster than ``MAX_JOINT_VELOCITY`` rad/s, all joints keep their proportions.
    """

    def __init__(self, scene: Scene) -> None:
        self._target = scene.target.top
        self._command = np.array(scene.start_joint_positions, dtype=np.float64)
        self._velocity = np.zeros_like(self._command)

    def step(self, dt_s: float) -> np.ndarray:
        """The command ``[6]`` in rad, ``dt_s`` after the last one."""
        tip = kinematics.tip_position(self._command)
        away = float(np.hypot(*(tip - self._target)[:2]))
        height = TOUCH_HEIGHT_M + min(MAX_APPROACH_HEIGHT_M, APPROACH_SLOPE * away)
        goal = kinematics.tool_down(self._target + [0.0, 0.0, height])
        wanted = GAIN_HZ * (goal - self._command)
        wanted *= min(1.0, MAX_JOINT_VELOCITY / max(np.abs(wanted).max(), 1e-9))
        change = MAX_JOINT_ACCELERATION * dt_s
        self._velocity = self._velocity + np.clip(wanted - self._velocity, -change, change)
        self._command = self._command + self._velocity * dt_s
        return self._command.copy()

    def trajectory(self, dt_s: float) -> Trajectory:
        """The next command as a message has it: be there in ``dt_s``, then come to rest."""
        position, velocity = self.step(dt_s), self._velocity
        return Trajectory(
            stamp_ns=0,
            times_s=np.array([dt_s, 2 * dt_s]),
            positions=np.stack([position, position + velocity * dt_s / 2]),
            velocities=np.stack([velocity, np.zeros_like(velocity)]),
        )
