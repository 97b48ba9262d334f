"""Chunks in time: what the target is at any moment."""

from __future__ import annotations

import numpy as np
from runtime_helpers import MS, S

from vla_ros.runtime.schedule import LatestScheduler
from vla_ros.types import ActionChunk

START = np.array([0.0, 0.0])


def make_chunk(stamp_ns: int = S, offset: float = 1.0) -> ActionChunk:
    rows = np.arange(1, 6)[:, None] * np.array([[0.1, -0.2]])
    return ActionChunk(stamp_ns, 0.1, offset, rows)


def scheduler_with(chunk: ActionChunk, start: np.ndarray = START) -> LatestScheduler:
    scheduler = LatestScheduler()
    scheduler.offer(chunk, start)
    return scheduler


def test_every_action_is_the_target_when_it_is_due():
    chunk = make_chunk()
    scheduler = scheduler_with(chunk)
    for k in range(chunk.horizon):
        np.testing.assert_allclose(scheduler.target(S + (k + 1) * 100 * MS).positions, chunk.positions[k], atol=1e-12)


def test_with_offset_zero_the_first_action_is_due_at_the_observation():
    chunk = make_chunk(offset=0.0)
    np.testing.assert_allclose(scheduler_with(chunk).target(S).positions, chunk.positions[0])


def test_before_the_first_due_time_the_target_runs_from_the_command_in_force():
    scheduler = scheduler_with(make_chunk(), np.array([-0.1, 0.2]))
    np.testing.assert_allclose(scheduler.target(S).positions, [-0.1, 0.2])
    between = scheduler.target(S + 50 * MS).positions
    assert -0.1 < between[0] < 0.1 and -0.2 < between[1] < 0.2


def test_equally_spaced_actions_are_followed_at_constant_velocity():
    scheduler = scheduler_with(make_chunk())
    for t_ns in range(S + MS, S + 500 * MS, 7 * MS):
        np.testing.assert_allclose(scheduler.target(t_ns).velocities, [1.0, -2.0], atol=1e-9)


def test_velocities_are_the_slope_of_positions():
    rng = np.random.default_rng(3)
    scheduler = scheduler_with(ActionChunk(S, 0.1, 1.0, rng.normal(size=(8, 2))))
    for t_ns in rng.integers(S + MS, S + 799 * MS, 50):
        before, after = scheduler.target(int(t_ns) - 1000), scheduler.target(int(t_ns) + 1000)
        slope = (after.positions - before.positions) / 2e-6
        np.testing.assert_allclose(scheduler.target(int(t_ns)).velocities, slope, atol=1e-3)


def test_the_target_never_overshoots_the_actions_around_it():
    rng = np.random.default_rng(4)
    positions = rng.normal(size=(8, 2))
    scheduler = scheduler_with(ActionChunk(S, 0.1, 1.0, positions))
    for k in range(7):
        low, high = np.minimum(*positions[k : k + 2]), np.maximum(*positions[k : k + 2])
        for part in range(11):
            target = scheduler.target(S + (k + 1) * 100 * MS + part * 10 * MS).positions
            assert (target >= low - 1e-12).all() and (target <= high + 1e-12).all()


def test_after_the_last_action_there_is_no_target():
    scheduler = scheduler_with(make_chunk())
    assert scheduler.target(S + 500 * MS) is not None
    assert scheduler.target(S + 500 * MS + 1) is None


def test_the_newest_chunk_alone_decides():
    scheduler = scheduler_with(make_chunk())
    newer = ActionChunk(S + 100 * MS, 0.1, 1.0, np.full((5, 2), 0.7))
    scheduler.offer(newer, START)
    np.testing.assert_allclose(scheduler.target(S + 200 * MS).positions, [0.7, 0.7])


def test_a_cleared_scheduler_has_no_target():
    scheduler = scheduler_with(make_chunk())
    scheduler.clear()
    assert scheduler.target(S + 200 * MS) is None


def test_a_chunk_of_one_action_has_a_target():
    scheduler = scheduler_with(ActionChunk(S, 0.1, 0.0, np.array([[0.3, 0.4]])))
    np.testing.assert_allclose(scheduler.target(S).positions, [0.3, 0.4])
    assert not scheduler.target(S).velocities.any()
