"""What a new chunk is told of the one it continues."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_helpers import MS, S

from vla_ros.runtime.policy_driver import PolicyDriver
from vla_ros.runtime.schedule import LatestScheduler
from vla_ros.types import ActionChunk, ChunkShape, Observation

DT_S, HORIZON = 0.1, 12
ROWS = np.arange(1, HORIZON + 1)[:, None] * np.array([[0.1, -0.2]])


def seen(stamp_ns: int) -> Observation:
    return Observation(stamp_ns, {"front": stamp_ns}, {}, np.zeros(2), "touch")


def driver_after(num_delay: int) -> PolicyDriver:
    """One that follows a chunk of an observation at 1 s, and knows how long answers take."""
    driver = PolicyDriver(LatestScheduler(), retry_s=1.0)
    driver.follow(ActionChunk(S, DT_S, 1.0, ROWS), np.zeros(2), S)
    driver.delays.add(num_delay)
    return driver


def test_the_old_chunk_is_read_off_at_the_new_ones_due_times():
    continuation = driver_after(2).continuation(seen(S + 400 * MS), ChunkShape(HORIZON, DT_S, 1.0))
    np.testing.assert_allclose(continuation.positions[:8], ROWS[4:], atol=1e-12)
    assert continuation.is_known.tolist() == [True] * 8 + [False] * 4
    assert (continuation.num_executed, continuation.num_frozen) == (4, 2)


def test_nothing_is_continued_before_a_delay_is_known():
    driver = PolicyDriver(LatestScheduler(), retry_s=1.0)
    shape = ChunkShape(HORIZON, DT_S, 1.0)
    assert driver.continuation(seen(S), shape) is None
    driver.follow(ActionChunk(S, DT_S, 1.0, ROWS), np.zeros(2), S)
    assert driver.continuation(seen(S), shape) is None


def test_the_age_of_a_shadow_chunk_is_no_delay_of_the_model():
    driver = PolicyDriver(LatestScheduler(), retry_s=1.0)
    driver.follow_shadow(ActionChunk(S, DT_S, 1.0, ROWS), np.zeros(2), S + 480 * MS)
    assert driver.delays.predicted is None and driver.target(S + 500 * MS) is not None
    driver.follow(ActionChunk(S + 500 * MS, DT_S, 1.0, ROWS), np.zeros(2), S + 600 * MS)
    assert driver.delays.predicted == 2, "of the answer, 100 ms old, not of the shadow, 480 ms old"


def test_what_ends_before_the_answer_comes_is_not_continued():
    driver, shape = driver_after(3), ChunkShape(HORIZON, DT_S, 1.0)
    assert driver.continuation(seen(S + 900 * MS), shape).num_executed == 9
    assert driver.continuation(seen(S + 1000 * MS), shape) is None


def test_chunks_too_short_for_the_delay_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="a delay of 5 actions needs chunks of 14, the policy's have 12"):
        driver_after(5).continuation(seen(S), ChunkShape(HORIZON, DT_S, 1.0))
