"""Position, velocity, acceleration and jerk limits: the last thing every command passes.

A command is a pair of position and velocity, one control period after the one before it; between the two the
acceleration is constant. So ``p' = p + (v + v')·dt/2``, and choosing ``v'`` chooses everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.robot import RobotConfig
from vla_ros.runtime.path import Target
from vla_ros.runtime.smoothing import JerkSmoother
from vla_ros.types import Command

# A difference no controller can tell, so that rounding is not reported as a limit.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class BrakingRamp:
    """How a motion ends: ``positions`` and ``velocities`` ``[num_points, num_joints]`` at ``times_s`` ``[num_points]``.

    The first point is the command itself at 0 s, the last has no velocity. For one period the motion goes on as it
    does, so that a command that comes late finds the robot where it would be; then each joint brakes as hard as
    allowed. A point stands wherever the acceleration of one changes, so that a cubic through the points is exact.
    """

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


class Limiter:
    """Follows targets within a robot's limits, carrying position and velocity over from command to command.

    From every command it gives, braking as hard as allowed stops each joint before its position limit. A joint that
    starts outside its limits moves inward only.

    Where limits contradict each other: acceleration comes first, then position, then velocity, and jerk comes last.
    With ``max_jerk`` the commands of ``follow`` are the mean of a leading motion that keeps the other limits
    (``JerkSmoother``), and no sequence of targets breaks the jerk limit. ``brake``, its ramp and with it ``skip`` know
    no jerk limit: a fault brakes as hard as the acceleration limit allows. The next ``follow`` starts from there
    without acceleration, so jerk isn't kept in that change, nor as long as a position limit then leaves no room for it.
    """

    def __init__(self, robot: RobotConfig, period_s: float) -> None:
        assert period_s > 0
        self._names = robot.joint_names
        self._lower = robot.joint_values("lower")
        self._upper = robot.joint_values("upper")
        self._max_velocity = robot.joint_values("max_velocity")
        self._max_acceleration = robot.joint_values("max_acceleration")
        self._is_driven = robot.is_driven
        self._dt = period_s
        self._max_jerk = np.array([np.inf if joint.max_jerk is None else joint.max_jerk for joint in robot.joints])
        self._smoother = JerkSmoother(self._max_acceleration, self._max_jerk, period_s)
        self._is_smooth = False  # whether the smoother's commands led to the present state
        self._positions: np.ndarray | None = None
        self._velocities = np.zeros(robot.num_joints)
        self._change = np.zeros(robot.num_joints)  # of the velocities, by the last command

    @property
    def is_at_rest(self) -> bool:
        """Whether the last command has no velocity."""
        return not self._velocities.any()

    @property
    def positions(self) -> np.ndarray | None:
        """Positions ``[num_joints]`` of the last command; None before ``start_at``."""
        return self._positions

    def aim(self, target: Target, command: Command) -> np.ndarray:
        """Where a path that goes on from ``command`` begins, ``[num_joints]``: there, or where a bound on jerk delays
        it, at the ``target`` it follows."""
        is_delayed = (self._smoother.delay_s > 0) & np.isfinite(target.positions)
        return np.where(is_delayed, target.positions, command.positions)

    def start_at(self, positions: np.ndarray, velocities: np.ndarray | None = None, age_s: float = 0.0) -> np.ndarray:
        """Take what was measured ``age_s`` ago as the state the next command continues from: ``positions`` and
        ``velocities`` ``[num_joints]``, None at rest. An arm in motion has been braking since; returns where it is.

        A joint that is measured beyond its range by no more than a period from rest leads over begins at the limit."""
        assert np.isfinite(positions).all()
        inside = np.clip(positions, self._lower, self._upper)
        positions = np.where(np.abs(positions - inside) <= self._max_acceleration * self._dt**2, inside, positions)
        moving = np.zeros(len(positions)) if velocities is None else self._within_limits(velocities, positions)
        self._positions, self._velocities = self._braked(positions.astype(np.float64), moving, age_s / self._dt)
        self._change = -self._velocities
        self._is_smooth = False
        return self._positions

    def follow(self, target: Target, stamp_ns: int) -> Command:
        """The command closest to ``target`` that keeps every limit; a target that is not finite is dropped: brake."""
        assert self._positions is not None, "start_at comes first"
        if not (np.isfinite(target.positions).all() and np.isfinite(target.velocities).all()):
            return self.brake(stamp_ns, "target is not finite and was dropped")
        if not self._is_driven.all():  # a fixed joint stays where it was found
            positions = np.where(self._is_driven, target.positions, self._positions)
            target = Target(positions, np.where(self._is_driven, target.velocities, 0.0))
        if not self._is_smooth:
            self._smoother.restart(self._positions, self._velocities)
            self._is_smooth = True
        lead = self._smoother
        # The leading motion heads for where the target is going to be when the commands get there.
        ahead = np.clip(target.velocities, -self._max_velocity, self._max_velocity) * lead.delay_s
        wanted_positions = target.positions + ahead
        goal = np.clip(wanted_positions, self._lower, self._upper)
        # A goal moved to the limit stands still there.
        goal_velocity = np.where(goal == wanted_positions, target.velocities, 0.0)
        error = goal - (lead.positions + 0.5 * self._dt * (lead.velocities + goal_velocity))
        catch_up = np.sign(error) * _stoppable_velocity(np.abs(error), self._max_acceleration, self._dt)
        wanted = goal_velocity + catch_up
        given = self._bounded(wanted, lead.positions, lead.velocities)
        reason = self._reason(target.positions, wanted, given)
        smoothed = lead.add(given)
        velocities = self._bounded(smoothed, self._positions, self._velocities)
        command = self._advance(velocities, stamp_ns, reason)
        harder = np.abs(velocities - smoothed) > TOLERANCE
        if harder.any():
            lead.restart(self._positions, self._velocities, harder)
        return command

    def brake(self, stamp_ns: int, reason: str = "") -> Command:
        """The command that slows every joint as hard as allowed; at rest, the same command again."""
        assert self._positions is not None, "start_at comes first"
        step = self._max_acceleration * self._dt
        self._is_smooth = False
        return self._advance(self._velocities - np.clip(self._velocities, -step, step), stamp_ns, reason)

    def skip(self, num_periods: int) -> None:
        """Let periods pass without a command: the robot has followed the last one's braking ramp meanwhile."""
        if self._positions is not None:
            coasted = self._coasted(self._positions, self._velocities)
            self._positions, self._velocities = self._braked(*coasted, num_periods - 1)
            self._change = -self._velocities  # it brakes by now, should more periods pass
            self._is_smooth = False

    def braking_ramp(self, command: Command) -> BrakingRamp:
        """From ``command``, the last one given, to rest."""
        now = command.positions, command.velocities
        if not command.velocities.any():
            return BrakingRamp(np.zeros(1), *(values[None] for values in now))
        coasted = self._coasted(*now)
        num_full_steps = np.floor(np.abs(coasted[1]) / (self._max_acceleration * self._dt))[coasted[1] != 0]
        steps = np.unique(np.concatenate(([0.0], num_full_steps, num_full_steps + 1.0)))
        states = [now, *(self._braked(*coasted, k) for k in steps)]
        positions, velocities = (np.stack(values) for values in zip(*states, strict=True))
        return BrakingRamp(np.concatenate(([0.0], 1.0 + steps)) * self._dt, positions, velocities)

    def _coasted(self, positions: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities one period later with the last command's acceleration, but for a joint that would
        turn round, which stops."""
        wanted = velocities + self._change
        goes_on = self._bounded(np.where(wanted * velocities > 0, wanted, 0.0), positions, velocities)
        return positions + 0.5 * self._dt * (velocities + goes_on), goes_on

    def _braked(self, positions: np.ndarray, velocities: np.ndarray, num_steps: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities after ``num_steps`` steps of ``brake``."""
        speeds = np.abs(velocities)
        step = self._max_acceleration * self._dt
        num_full = np.minimum(np.floor(speeds / step), num_steps)
        rest = speeds - num_full * step
        way = 0.5 * (speeds + rest) * num_full * self._dt
        # The step in which a joint stops ends with no velocity, so it brakes less hard in it.
        stops = num_full < num_steps
        way = np.where(stops, way + 0.5 * rest * self._dt, way)
        return positions + np.sign(velocities) * way, np.where(stops, 0.0, np.sign(velocities) * rest)

    def _bounded(self, wanted: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        """``wanted`` velocities within what the limits leave after a state; the acceleration limit has the last
        word."""
        step = self._max_acceleration * self._dt
        bounded = self._within_limits(wanted, positions + 0.5 * self._dt * velocities)
        return np.clip(bounded, velocities - step, velocities + step)

    def _within_limits(self, velocities: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """``velocities`` within the velocity limit and what can be braked before the position limits."""
        up = _stoppable_velocity(np.maximum(self._upper - positions, 0.0), self._max_acceleration, self._dt)
        down = _stoppable_velocity(np.maximum(positions - self._lower, 0.0), self._max_acceleration, self._dt)
        bounded = np.clip(velocities, -self._max_velocity, self._max_velocity)
        return np.clip(bounded, -down, up)

    def _advance(self, velocities: np.ndarray, stamp_ns: int, reason: str) -> Command:
        self._positions = self._positions + 0.5 * self._dt * (self._velocities + velocities)
        self._change = velocities - self._velocities
        self._velocities = velocities
        return Command(stamp_ns, self._positions, velocities, reason)

    def _reason(self, target: np.ndarray, wanted: np.ndarray, given: np.ndarray) -> str:
        outside = np.maximum(target - self._upper, self._lower - target)
        if (outside > TOLERANCE).any():
            joint = int(outside.argmax())
            return (
                f"joint '{self._names[joint]}': target {target[joint]:.3f} is outside "
                f"{self._lower[joint]:g} to {self._upper[joint]:g}"
            )
        changed = np.abs(wanted - given)
        joint = int(changed.argmax())
        if changed[joint] <= TOLERANCE:
            return self._jerk_reason(given)
        if abs(wanted[joint]) > self._max_velocity[joint] + TOLERANCE:
            return f"joint '{self._names[joint]}': velocity bounded to {self._max_velocity[joint]:g}"
        return f"joint '{self._names[joint]}': acceleration bounded to {self._max_acceleration[joint]:g}"

    def _jerk_reason(self, given: np.ndarray) -> str:
        too_much = (np.abs(self._smoother.jerks(given)) - self._max_jerk) * self._dt**2
        joint = int(too_much.argmax())
        if too_much[joint] <= TOLERANCE:
            return ""
        return f"joint '{self._names[joint]}': jerk bounded to {self._max_jerk[joint]:g}"


def _stoppable_velocity(room: np.ndarray, max_acceleration: np.ndarray, dt: float) -> np.ndarray:
    """The largest velocity at the end of a step that can still be braked within ``room`` ``[num_joints]``.

    ``room`` counts from where the step would end with velocity 0 there. A velocity ``v = n·a·dt + r``, with
    ``0 <= r < a·dt``, spends ``v·dt/2`` of it in the step, then ``n`` full braking steps and one of ``r``:
    ``a·dt²·n·(n+1)/2 + (n+1)·dt·r`` in all, which is solved for ``n`` and ``r``.
    """
    unit = max_acceleration * dt * dt
    num_steps = np.floor(0.5 * (np.sqrt(1.0 + 8.0 * room / unit) - 1.0))
    rest = (room - 0.5 * unit * num_steps * (num_steps + 1.0)) / ((num_steps + 1.0) * dt)
    return num_steps * max_acceleration * dt + rest
