"""The robot's side alone, before there is any policy: a human drives, within limits, and can be stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from ros_harness import ROBOT_FILE, START_PATIENCE_S, NodeProcess, Probe, wait_until

from vla_ros.robot import load_robot

CONTROL = "vla_policy: control"
GOAL = [0.4, -0.3, 0.5]


@pytest.fixture(scope="module")
def alone(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    probe = Probe(load_robot(ROBOT_FILE))
    log = tmp_path_factory.mktemp("logs") / "policy_node.log"
    node = NodeProcess("nodes.policy_node", log, {"policy": "none", "robot": ROBOT_FILE, "autostart": True})
    try:
        wait_until(lambda: len(probe.commands) > 5, "commands", START_PATIENCE_S)
        yield probe
    finally:
        code = node.stop()
        probe.close()
    assert code == 0, node.log


def driven_to(probe: Probe, goal: list[float]) -> bool:
    probe.teleop(goal)
    time.sleep(1 / probe.robot.control_rate_hz)  # the rate of a hand's messages
    return np.allclose(probe.commands[-1].points[0].positions, goal, atol=1e-3)


def test_a_human_drives_without_a_policy_and_silence_is_hold(alone: Probe) -> None:
    wait_until(lambda: driven_to(alone, GOAL) and alone.mode() == "TELEOP", "the hand's pose, in its mode")
    wait_until(lambda: alone.mode() == "HOLD", "HOLD after silence")
    np.testing.assert_allclose(alone.commands[-1].points[0].positions, GOAL, atol=1e-3)


def test_engage_answers_that_there_is_no_policy(alone: Probe) -> None:
    answer = alone.trigger("vla_policy/engage")
    assert not answer.success and answer.message == "there is no policy (policy:=none); start the node with one"
    assert alone.mode() != "POLICY" and not alone.chunks


def test_the_stop_stops_a_human_and_joint_states_that_stay_away_end_it(alone: Probe) -> None:
    wait_until(lambda: alone.teleop(GOAL) or alone.mode() == "TELEOP", "TELEOP")
    alone.estop(True)
    wait_until(lambda: alone.mode() == "ESTOP", "ESTOP")
    alone.estop(False)
    wait_until(lambda: alone.trigger("vla_policy/reset_estop").success, "reset")
    wait_until(lambda: alone.teleop(GOAL) or alone.mode() == "TELEOP", "TELEOP")
    alone.silent = {"joints"}
    wait_until(
        lambda: alone.teleop(GOAL) or "joint state on" in alone.value(CONTROL, "fault"), "the silent source, named"
    )
    alone.silent = set()
