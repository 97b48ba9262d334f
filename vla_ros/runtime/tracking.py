"""Whether the arm is where it was told to be: what is measured, beside what was commanded for the same moment."""

from __future__ import annotations

import numpy as np

from vla_ros.observing.buffers import SensorBuffers
from vla_ros.observing.freshness import Fault, joint_fault, jump_fault
from vla_ros.robot import RobotConfig
from vla_ros.runtime.history import PositionHistory
from vla_ros.types import JointSample
from vla_ros.units import NS_PER_S

NUM_COMMANDS = 1024
REST_S = 0.25
REST_SPEED = 0.05
"""Of the velocity limit: an arm that is slower for ``REST_S`` rests."""


class Tracking:
    """The commands of the last moments, compared with the newest joint state.

    Where nobody follows the commands, as in a replay, there is nothing to compare: ``is_followed`` says so.
    """

    def __init__(self, robot: RobotConfig, sensors: SensorBuffers, is_followed: bool) -> None:
        self._robot = robot
        self._sensors = sensors
        self._is_followed = is_followed
        self._commands = PositionHistory(NUM_COMMANDS)
        self._has_commands = False
        self._away_since_ns: int | None = None
        self._max_steps = REST_S * REST_SPEED * robot.joint_values("max_velocity")

    def restart(self, now_ns: int, positions: np.ndarray) -> None:
        """Commands begin at ``positions`` ``[num_joints]``, whatever was commanded before."""
        self._commands.restart(now_ns, positions)
        self._has_commands, self._away_since_ns = True, None

    def commanded(self, due_ns: int, positions: np.ndarray) -> None:
        """``positions`` ``[num_joints]`` were commanded for ``due_ns``."""
        self._commands.add(due_ns, positions)

    def fault(self) -> Fault | None:
        """A joint that is measured further than ``max_tracking_error`` from where it was commanded at that time."""
        sample = self._sensors.joints.newest()
        if sample is None or not (self._is_followed and self._has_commands):
            return None
        gaps = np.abs(self._sensors.joints.way(self._commands.at(sample.stamp_ns), sample.positions))
        limits = self._robot.max_tracking_errors
        joint = int((gaps / limits).argmax())
        if gaps[joint] <= limits[joint]:
            return None
        line = (
            f"joint '{self._robot.joint_names[joint]}' is measured {gaps[joint]:.2f} from where it is commanded; "
            f"expected at most {limits[joint]:.3g} (max_tracking_error in the robot file)"
        )
        return Fault("tracking", line)

    def arm_fault(self, now_ns: int) -> Fault | None:
        """What is wrong with the joint states, or with where they say the arm is."""
        stale = joint_fault(self._robot, self._sensors, now_ns)
        return stale or jump_fault(self._robot, self._sensors, now_ns) or self.fault()

    def distance(self) -> str:
        """How far away the arm is, for whoever wants to go on from there; empty where it is where it was left."""
        fault = self.fault()
        return "" if fault is None else f"{fault.line}: wait until it rests and is commanded to stay there"

    def refusal(self, now_ns: int) -> str:
        """Why nobody can drive from where the arm is, in one line; empty where somebody can."""
        fault = self.arm_fault(now_ns)
        return "" if fault is None else self.distance() or fault.line

    def look(self, now_ns: int) -> bool:
        """Whether the arm is away from a command that has come to rest: how long counts from the first tick that finds
        it so, and nothing is commanded meanwhile."""
        if self.fault() is None:
            self._away_since_ns = None
        elif self._away_since_ns is None:
            self._away_since_ns = now_ns
        return self._away_since_ns is not None

    def start(self, now_ns: int) -> JointSample | None:
        """Where the arm is and how fast, for commands to begin there; None where nobody knows."""
        sample = self._sensors.joints.newest()
        if sample is None or self.arm_fault(now_ns) is not None or not np.isfinite(sample.velocities).all():
            return None
        return sample

    def resting_place(self, now_ns: int) -> JointSample | None:
        """Where an arm that is away rests; None while it moves, or nobody knows."""
        newest, since_ns = self._sensors.joints.newest(), self._away_since_ns
        if newest is None or since_ns is None or joint_fault(self._robot, self._sensors, now_ns) is not None:
            return None
        start_ns = newest.stamp_ns - round(REST_S * NS_PER_S)
        rests = start_ns >= since_ns and (self._sensors.joints.spread_since(start_ns) <= self._max_steps).all()
        return newest if rests else None
