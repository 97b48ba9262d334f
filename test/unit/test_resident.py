"""Growth of resident memory: from after a process's warm-up to its end, each life by itself."""

from __future__ import annotations

import os

import numpy as np
import pytest
from resident import ResidentMemory, resident_bytes


def memory_of(*lives: list[float], period_s: float = 20.0) -> ResidentMemory:
    memory = ResidentMemory()
    for pid, life in enumerate(lives):
        for i, num_bytes in enumerate(life):
            memory.add("node", pid, i * period_s, round(num_bytes))
    return memory


def test_what_grows_is_told_in_percent_and_what_is_level_is_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2e5, 180)
    level, growing = memory_of(list(1e8 + noise)), memory_of(list(np.linspace(1e8, 1.1e8, 180) + noise))
    assert abs(level.growth_percent("node", 120.0)) < 0.5
    assert growing.growth_percent("node", 120.0) == pytest.approx(9.0, abs=1)


def test_growth_while_it_warms_up_is_none_of_it():
    warming_up = [1e8 * share for share in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)]
    assert memory_of([*warming_up, *[1e8] * 20]).growth_percent("node", 120.0) == 0.0
    assert memory_of([*warming_up, *[1e8] * 20]).growth_percent("node", 0.0) > 20


def test_a_process_that_was_started_again_is_compared_with_itself_and_the_worst_counts():
    assert memory_of([1e8] * 30, [2e8] * 30).growth_percent("node", 120.0) == 0.0
    grown = list(np.linspace(1e8, 1.5e8, 60))
    assert memory_of([1e8] * 30, grown, [1e8] * 30).growth_percent("node", 120.0) > 20


def test_too_few_samples_say_nothing():
    assert memory_of([1e8] * 7).growth_percent("node", 120.0) is None
    assert memory_of([1e8] * 8).growth_percent("node", 120.0) == 0.0
    assert memory_of().growth_percent("node", 0.0) is None


def test_it_is_read_from_the_system():
    assert 1e6 < resident_bytes(os.getpid()) < 1e11
