"""Taking over and giving back, judged by what arrives on topics."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from ros_harness import Probe, wait_until

PERIOD_S = 0.02


def follow_hand(probe: Probe, positions: list[float], num: int) -> None:
    for _ in range(num):
        probe.teleop(positions)
        time.sleep(PERIOD_S)


@pytest.fixture
def human(graph) -> Iterator:
    """The graph, with the emergency stop let go and reset afterwards."""
    yield graph
    graph.probe.estop(False)
    wait_until(lambda: graph.probe.trigger("vla_policy/reset_estop").success, "reset")


def test_a_teleop_message_takes_over_and_the_robot_goes_where_the_hand_is(human):
    probe = human.probe
    human.probe.drive()
    goal = [0.4, -0.3, 0.5]
    wait_until(lambda: probe.mode() == "TELEOP" or probe.teleop(goal), "TELEOP")
    wait_until(
        lambda: np.allclose(probe.commands[-1].points[0].positions, goal, atol=1e-3) or probe.teleop(goal), "there"
    )


def test_every_command_comes_with_the_mode_that_made_it(human):
    probe = human.probe
    human.probe.drive()
    probe.modes.clear()
    probe.commands.clear()
    # A busy machine may lose some of either on the way.
    wait_until(lambda: len(probe.commands) >= 50 and len(probe.modes) >= 0.8 * len(probe.commands), "a mode for each")


def test_a_hand_that_falls_silent_leaves_the_robot_in_hold_and_engage_gives_back(human):
    probe = human.probe
    human.probe.drive()
    follow_hand(probe, [0.1, 0.1, 0.1], 5)
    wait_until(lambda: probe.mode() == "HOLD", "HOLD after silence")
    human.probe.wait_for_words("vla_policy/teleop", "fault_age_s", "fault_limit_s")
    human.probe.drive()


def test_while_a_human_drives_the_chunks_of_the_policy_are_still_shown(human):
    probe = human.probe
    human.probe.drive()
    wait_until(lambda: probe.mode() == "TELEOP" or probe.teleop([0.0, 0.0, 0.0]), "TELEOP")
    probe.chunks.clear()
    probe.modes.clear()
    wait_until(lambda: probe.chunks and probe.modes or probe.teleop([0.0, 0.0, 0.0]), "a shadow chunk")
    assert "POLICY" not in probe.modes


def test_takeover_as_a_service_then_engage(human):
    probe = human.probe
    human.probe.drive()
    probe.modes.clear()
    assert probe.trigger("vla_policy/takeover").success
    wait_until(lambda: "TELEOP" in probe.modes, "TELEOP, which ends when nobody leads")
    human.probe.drive()


def test_the_emergency_stop_latches_until_it_is_let_go_and_reset(human):
    probe = human.probe
    human.probe.drive()
    probe.estop(True)
    wait_until(lambda: probe.mode() == "ESTOP", "ESTOP")
    wait_until(probe.is_at_rest, "rest")
    for service in ("engage", "takeover", "hold"):
        refused = probe.trigger(f"vla_policy/{service}")
        assert not refused.success and "ESTOP" in refused.message
    follow_hand(probe, [0.2, 0.2, 0.2], 5)
    assert probe.mode() == "ESTOP"
    assert "still true" in probe.trigger("vla_policy/reset_estop").message
    probe.estop(False)
    human.bring("vla_policy", "inactive")
    probe.modes.clear()
    probe.commands.clear()
    human.bring("vla_policy", "active")
    wait_until(lambda: probe.commands and probe.modes, "commands and their mode")
    assert set(probe.modes) == {"ESTOP"}, "who deactivates a node has not reset it"
    wait_until(lambda: probe.trigger("vla_policy/reset_estop").success, "reset")
    wait_until(lambda: probe.mode() == "HOLD", "HOLD")


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"names": ["base", "shoulder", "elbow"]}, "unknown joint 'elbow'"),
        ({"names": ["base", "base", "wrist"]}, "'base' twice"),
        ({"positions": [0.0, 0.0]}, "2 positions"),
        ({"positions": [0.0, NAN, 0.0]}, "not finite"),
        ({"stamp_ago_s": 3.0}, "ended"),
        ({"stamp_ago_s": 3600.0}, "header stamp"),
        ({"stamp_ago_s": -60.0}, "header stamp"),
        ({"num_points": 0}, "no points"),
    ],
)
def test_an_unusable_trajectory_ends_in_hold_with_its_reason(human, changes, named):
    human.probe.drive()
    human.probe.teleop(**{"positions": [0.0, 0.0, 0.0], **changes})
    wait_until(lambda: human.probe.mode() == "HOLD", "HOLD")
    human.probe.wait_for_words(named)


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ["wrist", "shoulder", "base"]},
        {"names": ["base", "shoulder"], "positions": [0.0, 0.0]},
        {"positions": [0.0, 9.0, 0.0]},
        {"stamp_ago_s": -0.3},
    ],
    ids=["joints in another order", "a joint less", "beyond a limit", "to start in 0.3 s"],
)
def test_a_trajectory_that_says_enough_takes_over(human, changes):
    human.probe.drive()
    human.probe.modes.clear()
    human.probe.teleop(**{"positions": [0.0, 0.0, 0.0], **changes})
    wait_until(lambda: "TELEOP" in human.probe.modes, "TELEOP")


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("strategy", "best", "expected one of latest, ensemble, rtc"),
        ("teleop_takeover", "wish", "expected one of message"),
    ],
)
def test_a_parameter_out_of_range_is_refused_when_it_is_set(human, name, value, named):
    human.probe.drive()
    with pytest.raises(AssertionError, match=named):
        human.probe.set_text("vla_policy", name, value)
    assert human.probe.mode() == "POLICY"
