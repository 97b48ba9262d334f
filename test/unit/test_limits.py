"""Limits: whatever is asked for, a command is bounded, and the robot can always stop in time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import ROBOT

from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import JointConfig, OutputConfig
from vla_ros.runtime.limits import Limiter
from vla_ros.runtime.path import Target
from vla_ros.types import Command

DT = 0.02
LOWER, UPPER = ROBOT.joint_values("lower"), ROBOT.joint_values("upper")
MAX_VELOCITY, MAX_ACCELERATION = ROBOT.joint_values("max_velocity"), ROBOT.joint_values("max_acceleration")
REST = np.zeros(2)
EPS = 1e-9


def limiter_at(*positions: float) -> Limiter:
    limiter = Limiter(ROBOT, DT)
    limiter.start_at(np.array(positions))
    return limiter


def assert_step_is_bounded(before: Command, after: Command) -> None:
    acceleration = (after.velocities - before.velocities) / DT
    assert (np.abs(acceleration) <= MAX_ACCELERATION + 1e-6).all()
    assert (np.abs(after.velocities) <= MAX_VELOCITY + EPS).all()
    assert (after.positions >= LOWER - EPS).all() and (after.positions <= UPPER + EPS).all()
    way = 0.5 * DT * (before.velocities + after.velocities)
    np.testing.assert_allclose(after.positions, before.positions + way, atol=1e-12)


def random_target(rng: np.random.Generator, scale: float) -> Target:
    return Target(rng.uniform(LOWER - 0.5, UPPER + 0.5) * scale, rng.normal(size=2) * 10 ** rng.uniform(-3, 2))


@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_of_targets_breaks_a_limit(seed):
    rng = np.random.default_rng(seed)
    limiter = Limiter(ROBOT, DT)
    start = rng.uniform(LOWER, UPPER)
    limiter.start_at(start)
    command = Command(0, start, REST)
    target = Target(start, REST)
    for tick in range(400):
        chance = rng.random()
        if chance < 0.15:
            target = random_target(rng, 10 ** rng.uniform(-2, 1))
        before = command
        if 0.15 <= chance < 0.2:
            num_missed = int(rng.integers(1, 8))
            before = _after(limiter, command, num_missed)
            limiter.skip(num_missed)
        command = limiter.brake(tick) if chance > 0.9 else limiter.follow(target, tick)
        assert_step_is_bounded(before, command)


def _after(limiter: Limiter, command: Command, num_periods: int) -> Command:
    """Where the published ramp brings the robot in ``num_periods``, as a controller interpolates it."""
    ramp = limiter.braking_ramp(command)
    t_s = min(num_periods * DT, ramp.times_s[-1])
    velocities = np.array([np.interp(t_s, ramp.times_s, ramp.velocities[:, j]) for j in range(2)])
    after = int(np.searchsorted(ramp.times_s, t_s - EPS))
    if after == 0:
        return Command(0, command.positions, velocities)
    span_s = t_s - ramp.times_s[after - 1]
    positions = ramp.positions[after - 1] + 0.5 * span_s * (ramp.velocities[after - 1] + velocities)
    return Command(0, positions, velocities)


@pytest.mark.parametrize("seed", range(4))
def test_every_braking_ramp_ends_at_rest_within_all_limits(seed):
    rng = np.random.default_rng(seed)
    limiter = limiter_at(*rng.uniform(LOWER, UPPER))
    for tick in range(200):
        ramp = limiter.braking_ramp(limiter.follow(random_target(rng, 3.0), tick))
        assert not ramp.velocities[-1].any()
        assert ramp.times_s[0] == 0 and (np.diff(ramp.times_s) > DT / 2).all()
        assert (ramp.positions >= LOWER - EPS).all() and (ramp.positions <= UPPER + EPS).all()
        slopes = np.diff(ramp.velocities, axis=0) / np.diff(ramp.times_s)[:, None]
        assert (np.abs(slopes) <= MAX_ACCELERATION + 1e-6).all()
        way = 0.5 * np.diff(ramp.times_s)[:, None] * (ramp.velocities[:-1] + ramp.velocities[1:])
        np.testing.assert_allclose(np.diff(ramp.positions, axis=0), way, atol=1e-12)


def test_the_ramp_is_what_braking_does():
    limiter = limiter_at(0.0, 0.0)
    for tick in range(20):
        command = limiter.follow(Target(np.array([0.9, -0.9]), REST), tick)
    ramp = limiter.braking_ramp(command)
    limiter.skip(1)
    for step in range(2, 20):
        command = limiter.brake(step)
        for at, time_s in enumerate(ramp.times_s):
            if round(time_s / DT) == step:
                np.testing.assert_allclose(command.positions, ramp.positions[at], atol=1e-12)
                np.testing.assert_allclose(command.velocities, ramp.velocities[at], atol=1e-12)
    assert not limiter.brake(20).velocities.any()


def test_a_target_within_every_limit_passes_unchanged():
    limiter = limiter_at(0.0, 0.0)
    for tick in range(200):
        t_s = (tick + 1) * DT
        position, velocity = 0.2 * (1 - np.cos(2 * t_s)), 0.4 * np.sin(2 * t_s)
        command = limiter.follow(Target(np.full(2, position), np.full(2, velocity)), tick)
        assert not command.reason
        np.testing.assert_allclose(command.positions, position, atol=2e-5)


def test_a_far_target_is_reached_without_overshoot_and_then_kept():
    limiter = limiter_at(0.0, 0.0)
    goal = np.array([0.8, -1.5])
    commands = [limiter.follow(Target(goal, REST), tick) for tick in range(150)]
    assert all((np.abs(command.positions) <= np.abs(goal) + EPS).all() for command in commands)
    np.testing.assert_allclose(commands[-1].positions, goal, atol=1e-6)
    assert "velocity bounded" in commands[0].reason or "acceleration bounded" in commands[0].reason
    assert not commands[-1].reason


def test_a_target_outside_the_limits_is_bounded_and_reported():
    limiter = limiter_at(0.9, 0.0)
    for tick in range(100):
        command = limiter.follow(Target(np.array([1.7, 0.0]), np.array([3.0, 0.0])), tick)
    np.testing.assert_allclose(command.positions, [1.0, 0.0], atol=1e-6)
    assert command.reason == "joint 'shoulder': target 1.700 is outside -1 to 1"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_not_finite_is_dropped_and_the_robot_brakes(bad):
    limiter = limiter_at(0.0, 0.0)
    for tick in range(10):
        moving = limiter.follow(Target(np.array([0.9, -0.9]), REST), tick)
    for target in (Target(np.array([bad, 0.0]), REST), Target(REST, np.array([0.0, bad]))):
        command = limiter.follow(target, 11)
        assert np.isfinite(command.positions).all()
        assert "not finite" in command.reason
        assert (np.abs(command.velocities) < np.abs(moving.velocities)).all()


def test_a_joint_outside_its_limits_moves_inward_only():
    limiter = limiter_at(1.2, 0.0)
    outward = limiter.follow(Target(np.array([2.0, 0.0]), np.array([1.0, 0.0])), 0)
    assert outward.positions[0] <= 1.2
    previous = outward.positions[0]
    for tick in range(100):
        command = limiter.follow(Target(np.array([2.0, 0.0]), REST), tick)
        assert command.positions[0] <= previous + EPS
        previous = command.positions[0]
    np.testing.assert_allclose(previous, 1.0, atol=1e-6)


def test_a_joint_outside_its_limits_is_not_moved_by_braking():
    limiter = limiter_at(1.2, 0.0)
    assert limiter.brake(0).positions[0] == 1.2


@pytest.mark.parametrize("beyond", [6e-7, 1e-3])
def test_a_joint_that_is_measured_a_hair_beyond_its_range_is_commanded_to_its_limit(beyond):
    limiter = Limiter(ROBOT, DT)
    lower = ROBOT.joint_values("lower")
    limiter.start_at(lower - beyond)
    np.testing.assert_array_equal(limiter.brake(0).positions, lower)


def test_at_rest_braking_repeats_the_same_command():
    limiter = limiter_at(0.1, 0.2)
    for tick in range(5):
        command = limiter.brake(tick)
        np.testing.assert_array_equal(command.positions, [0.1, 0.2])
        assert not command.velocities.any() and not command.reason


def robot_of(*joints: JointConfig) -> RobotConfig:
    return replace(ROBOT, joints=joints, outputs=(OutputConfig("arm", tuple(joint.name for joint in joints)),))


# The first joint's window is 10 periods long, the second's 3; the third is not smoothed.
MAX_JERK = np.array([80.0, 200.0, np.inf])
SMOOTH_ROBOT = robot_of(
    replace(ROBOT.joints[0], max_jerk=80.0),
    replace(ROBOT.joints[1], max_jerk=200.0),
    replace(ROBOT.joints[0], name="gripper"),
)
SMOOTH_LIMITS = {
    name: SMOOTH_ROBOT.joint_values(name) for name in ("lower", "upper", "max_velocity", "max_acceleration")
}


class SmoothRun:
    """Commands of a limiter that limits jerk, each checked against the one before it for every other limit."""

    def __init__(self, start: np.ndarray) -> None:
        self.limiter = Limiter(SMOOTH_ROBOT, DT)
        self.limiter.start_at(start)
        self.commands = [Command(0, start, np.zeros(3))]

    def follow(self, target: Target) -> Command:
        return self._add(self.limiter.follow(target, 0))

    def brake(self) -> Command:
        return self._add(self.limiter.brake(0))

    def jerks(self) -> np.ndarray:
        velocities = np.array([command.velocities for command in self.commands])
        return np.diff(velocities, n=2, axis=0) / DT**2

    def _add(self, command: Command) -> Command:
        before, limits = self.commands[-1], SMOOTH_LIMITS
        acceleration = (command.velocities - before.velocities) / DT
        assert (np.abs(acceleration) <= limits["max_acceleration"] + 1e-6).all()
        assert (np.abs(command.velocities) <= limits["max_velocity"] + EPS).all()
        assert (command.positions >= limits["lower"] - EPS).all() and (command.positions <= limits["upper"] + EPS).all()
        way = 0.5 * DT * (before.velocities + command.velocities)
        np.testing.assert_allclose(command.positions, before.positions + way, atol=1e-12)
        stop = self.limiter.braking_ramp(command).positions
        assert (stop >= limits["lower"] - EPS).all() and (stop <= limits["upper"] + EPS).all()
        self.commands.append(command)
        return command


def random_smooth_target(rng: np.random.Generator) -> Target:
    scale = 10 ** rng.uniform(-2, 1)
    positions = rng.uniform(SMOOTH_LIMITS["lower"] - 0.5, SMOOTH_LIMITS["upper"] + 0.5) * scale
    return Target(positions, rng.normal(size=3) * 10 ** rng.uniform(-3, 2))


@pytest.mark.parametrize("seed", range(6))
def test_no_sequence_of_targets_breaks_the_jerk_limit(seed):
    rng = np.random.default_rng(seed)
    run = SmoothRun(rng.uniform(SMOOTH_LIMITS["lower"], SMOOTH_LIMITS["upper"]))
    for _ in range(400):
        if rng.random() < 0.15:
            target = random_smooth_target(rng)
        elif len(run.commands) == 1:
            target = Target(run.commands[0].positions, np.zeros(3))
        run.follow(target)
    assert (np.abs(run.jerks()) <= MAX_JERK * (1 + 1e-6) + 1e-6).all()


@pytest.mark.parametrize("seed", range(6))
def test_limits_that_come_before_jerk_hold_through_braking_and_missed_periods(seed):
    rng = np.random.default_rng(seed)
    run = SmoothRun(rng.uniform(SMOOTH_LIMITS["lower"], SMOOTH_LIMITS["upper"]))
    target = random_smooth_target(rng)
    for _ in range(400):
        chance = rng.random()
        if chance < 0.15:
            target = random_smooth_target(rng)
        elif chance < 0.2:
            ramp = run.limiter.braking_ramp(run.commands[-1])
            run.limiter.skip(10_000)
            np.testing.assert_allclose(run.limiter.positions, ramp.positions[-1], atol=1e-12)
            run.commands.append(Command(0, run.limiter.positions, np.zeros(3)))
        if chance > 0.9:
            run.brake()
        else:
            run.follow(target)
    goal = rng.uniform(SMOOTH_LIMITS["lower"], SMOOTH_LIMITS["upper"])
    for _ in range(300):
        last = run.follow(Target(goal, np.zeros(3)))
    np.testing.assert_allclose(last.positions, goal, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_with_jerk_limited_a_target_is_reached_without_overshoot_and_then_kept(seed):
    rng = np.random.default_rng(seed)
    start, goal = (rng.uniform(SMOOTH_LIMITS["lower"], SMOOTH_LIMITS["upper"]) for _ in range(2))
    run = SmoothRun(start)
    for _ in range(300):
        run.follow(Target(goal, np.zeros(3)))
    positions = np.array([command.positions for command in run.commands])
    assert ((positions - goal) * np.sign(start - goal) >= -EPS).all()
    np.testing.assert_allclose(positions[-50:], np.tile(goal, (50, 1)), atol=1e-9)
    assert all(np.abs(command.velocities).max() < 1e-9 for command in run.commands[-50:])


def test_with_jerk_limited_a_smooth_target_is_followed_without_delay():
    run = SmoothRun(np.zeros(3))
    for tick in range(400):
        t_s = (tick + 1) * DT
        position, velocity = 0.2 * (1 - np.cos(2 * t_s)), 0.4 * np.sin(2 * t_s)
        command = run.follow(Target(np.full(3, position), np.full(3, velocity)))
        # With a delay of half the window, 90 ms, it would be behind by 0.036.
        np.testing.assert_allclose(command.positions, position, atol=6e-3)
        # It starts with an acceleration at once; after that nothing is bounded.
        assert not command.reason or tick < 10
    assert (np.abs(run.jerks()) <= MAX_JERK * (1 + 1e-6)).all()


def test_a_bounded_jerk_is_reported():
    run = SmoothRun(np.zeros(3))
    reasons = [run.follow(Target(np.full(3, 0.3), np.zeros(3))).reason for _ in range(150)]
    assert any("velocity bounded" in reason for reason in reasons)
    assert "joint 'shoulder': jerk bounded to 80" in reasons
    assert not reasons[-1]


def test_a_fault_brakes_as_hard_as_without_a_jerk_limit():
    run = SmoothRun(np.zeros(3))
    for _ in range(15):
        moving = run.follow(Target(np.array([0.9, -1.5, 0.9]), np.zeros(3)))
    braking = run.brake()
    step = SMOOTH_LIMITS["max_acceleration"] * DT
    np.testing.assert_allclose(np.abs(moving.velocities) - np.abs(braking.velocities), step, atol=1e-12)


def test_without_a_jerk_limit_nothing_is_smoothed():
    limiter, other = limiter_at(0.0, 0.0), Limiter(robot_of(*SMOOTH_ROBOT.joints[1:]), DT)
    other.start_at(np.zeros(2))
    for _ in range(10):
        plain = limiter.follow(Target(np.full(2, 0.5), REST), 0)
        half_smooth = other.follow(Target(np.full(2, 0.5), REST), 0)
    assert plain.velocities[0] == half_smooth.velocities[1]
