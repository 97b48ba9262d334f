"""When a replay's ticks are: those of the recording, as far as its commands tell, and never too close for limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_helpers import START_NS, commands, mode, sensors, swing_policy, task, write_bag
from runtime_helpers import MS, PERIOD_NS, ROBOT

from vla_ros.replay.recorded import MIN_GAPS, CommandRate
from vla_ros.replay.records import Replay
from vla_ros.replay.run import replay_bag
from vla_ros.replay.settings import ReplaySettings


def replay(folder: Path, said: Any, rate_hz: float = 0.0) -> Replay:
    bag = write_bag(folder / "bag", sensors(3), said, task(), mode(0.1, "POLICY"))
    settings = ReplaySettings(latency_ms=30.0, control_rate_hz=rate_hz)
    return replay_bag(bag, ROBOT, swing_policy(), settings)


def late(most_ms: float, seed: int = 0, least_ms: float = 0.0) -> Any:
    """By how much a busy machine sends each command after its tick."""
    rng = np.random.default_rng(seed)
    return lambda: int(rng.uniform(least_ms, most_ms) * MS)


def test_ticks_are_where_the_earliest_commands_were(tmp_path):
    found = replay(tmp_path, commands(3, late_ns=late(11.0, least_ms=7.0)))
    ticks_ns = found.commands.times_ns - PERIOD_NS - START_NS
    after_phase_ns = (ticks_ns[ticks_ns > 1000 * MS] - 7 * MS) % PERIOD_NS
    assert (after_phase_ns < MS).all() and len(set(after_phase_ns.tolist())) < 5
    assert not found.problems


@pytest.mark.parametrize(
    ("bag_hz", "rate_hz"), [(100.0, 0.0), (125.0, 0.0), (20.0, 0.0), (50.0, 100.0), (50.0, 20.0), (50.0, 30.0)]
)
@pytest.mark.parametrize("late_ms", [0.0, 6.0])
def test_commands_of_another_rate_pull_no_tick_closer_and_are_told(tmp_path, bag_hz, rate_hz, late_ms):
    found = replay(tmp_path, commands(3, round(1e9 / bag_hz), late(late_ms)), rate_hz)
    ours_hz = rate_hz or ROBOT.control_rate_hz
    apart_ns = np.diff(found.commands.times_ns)
    assert apart_ns.min() >= 0.75e9 / ours_hz - 1
    assert len(apart_ns) == pytest.approx(2.9 * ours_hz, rel=0.1)
    (line,) = found.problems
    told_hz, told_ours_hz = map(float, re.findall(r"([\d.]+) Hz", line))
    assert told_hz == pytest.approx(bag_hz, rel=0.1) and told_ours_hz == ours_hz
    assert "commands to 'arm'" in line and "--rate HZ" in line and "\n" not in line


@pytest.mark.parametrize("seed", range(5))
def test_however_late_commands_are_ticks_keep_three_quarters_of_a_period(tmp_path, seed):
    found = replay(tmp_path, commands(3, late_ns=late(19.0, seed)))
    assert np.diff(found.commands.times_ns).min() >= 0.75 * PERIOD_NS


def test_a_pause_or_a_lost_command_is_no_other_rate():
    rate = CommandRate(PERIOD_NS)
    assert rate.fits("arm", START_NS) and rate.fits("arm", START_NS + PERIOD_NS)
    assert not rate.fits("arm", START_NS + 3 * PERIOD_NS)
    for k in range(4, 4 + MIN_GAPS):
        assert rate.fits("arm", START_NS + k * PERIOD_NS)
    assert rate.problem == ""


def test_groups_of_joints_are_told_apart():
    rate = CommandRate(PERIOD_NS)
    for k in range(3 * MIN_GAPS):
        assert rate.fits("arm", START_NS + k * PERIOD_NS)
        if k % 2 == 0:
            assert rate.fits("gripper", START_NS + k * PERIOD_NS + MS) is (k == 0)
    assert "'gripper' come at about 25 Hz" in rate.problem and "ours at 50 Hz" in rate.problem
