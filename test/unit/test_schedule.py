"""Chunks in time: what the target is at any moment."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from runtime_helpers import MS, S

from vla_ros.runtime.delay import DelayEstimate, count_consumed
from vla_ros.runtime.schedule import STRATEGIES, LatestScheduler, Scheduler
from vla_ros.types import ActionChunk

START = np.array([0.0, 0.0])


def make_chunk(stamp_ns: int = S, offset: float = 1.0) -> ActionChunk:
    rows = np.arange(1, 6)[:, None] * np.array([[0.1, -0.2]])
    return ActionChunk(stamp_ns, 0.1, offset, rows)


def scheduler_with(chunk: ActionChunk, start: np.ndarray = START) -> LatestScheduler:
    scheduler = LatestScheduler()
    scheduler.offer(chunk, start, chunk.stamp_ns)
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
    scheduler.offer(newer, START, newer.stamp_ns)
    np.testing.assert_allclose(scheduler.target(S + 200 * MS).positions, [0.7, 0.7])


def test_a_cleared_scheduler_has_no_target():
    scheduler = scheduler_with(make_chunk())
    scheduler.clear()
    assert scheduler.target(S + 200 * MS) is None


def test_a_chunk_of_one_action_has_a_target():
    scheduler = scheduler_with(ActionChunk(S, 0.1, 0.0, np.array([[0.3, 0.4]])))
    np.testing.assert_allclose(scheduler.target(S).positions, [0.3, 0.4])
    assert not scheduler.target(S).velocities.any()


def random_chunk(seed: int, stamp_ns: int, horizon: int = 12) -> ActionChunk:
    return ActionChunk(stamp_ns, 0.1, 1.0, np.random.default_rng(seed).normal(size=(horizon, 2)))


def assert_continuous(scheduler: Scheduler, first_ns: int, last_ns: int) -> None:
    """Positions follow their velocities, and neither jumps, from one ms to the next."""
    targets = [scheduler.target(t) for t in range(first_ns, last_ns, MS)]
    for before, after in pairwise(targets):
        mean = (before.velocities + after.velocities) / 2
        np.testing.assert_allclose(after.positions - before.positions, 1e-3 * mean, atol=2e-3)
        assert np.abs(after.velocities - before.velocities).max() < 8.0


@pytest.mark.parametrize("strategy", ["ensemble", "rtc"])
def test_a_switch_of_chunks_makes_no_jump(strategy):
    scheduler = STRATEGIES[strategy]()
    scheduler.offer(random_chunk(0, S), START, S + 10 * MS)
    for i, late in ((1, 0), (2, 3), (3, 0)):
        now_ns = S + i * 250 * MS
        before = scheduler.target(now_ns)
        scheduler.offer(random_chunk(i, now_ns - 200 * MS), before.positions, now_ns, late)
        after = scheduler.target(now_ns)
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-9)
        np.testing.assert_allclose(after.velocities, before.velocities, atol=1e-9)
        assert_continuous(scheduler, now_ns, now_ns + 250 * MS)


def test_the_latest_strategy_does_jump():
    scheduler = STRATEGIES["latest"]()
    scheduler.offer(random_chunk(0, S), START, S)
    before = scheduler.target(S + 300 * MS)
    scheduler.offer(random_chunk(1, S + 100 * MS), START, S + 300 * MS)
    assert np.abs(scheduler.target(S + 300 * MS).positions - before.positions).max() > 0.1


def test_an_ensemble_weighs_the_oldest_most():
    scheduler = STRATEGIES["ensemble"]()
    for i in range(3):
        rows = np.full((12, 2), float(i))
        scheduler.offer(ActionChunk(S, 0.1, 1.0, rows), rows[0], S)
    weights = np.exp(-0.01 * np.arange(3))
    target = scheduler.target(S + 600 * MS)
    np.testing.assert_allclose(target.positions, np.full(2, weights @ np.arange(3) / weights.sum()))


@pytest.mark.parametrize("strategy", ["latest", "ensemble", "rtc"])
def test_where_no_chunk_reaches_there_is_no_target(strategy):
    scheduler = STRATEGIES[strategy]()
    assert scheduler.target(S) is None
    scheduler.offer(make_chunk(), START, S)
    assert scheduler.target(S + 500 * MS) is not None
    assert scheduler.target(S + 501 * MS) is None
    scheduler.clear()
    assert scheduler.target(S) is None


@pytest.mark.parametrize(
    ("elapsed_ms", "offset", "expected"),
    [(0, 1.0, 1), (50, 1.0, 1), (100, 1.0, 2), (250, 1.0, 3), (0, 0.0, 2), (150, 0.0, 3), (-300, 1.0, 0)],
)
def test_the_delay_counts_what_is_past_and_what_is_approached(elapsed_ms, offset, expected):
    assert count_consumed(make_chunk(S, offset), S + elapsed_ms * MS) == expected


def test_the_predicted_delay_is_the_largest_of_the_last_ten():
    delays = DelayEstimate()
    assert delays.predicted is None and delays.add(3) == 0
    assert delays.predicted == 3
    assert delays.add(5) == 2 and delays.num_late == 1
    for _ in range(10):
        assert delays.add(2) == 0
    assert delays.predicted == 2
