"""Somebody moves the arm that no command moves: it is named, never pulled back, and nobody drives from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ros_harness import Probe, wait_until
from waiting import becomes_true

SPEED = 0.4  # rad/s
WAY = np.array([1.0, 0.1, 0.1])
# Until a busy machine has taken a joint state and stopped sending, the hand goes on.
MARGIN = 0.5
SETTLED_S = 5.0


@pytest.fixture
def hand(graph) -> Iterator[Probe]:
    probe = graph.probe
    yield probe
    probe.estop(False)
    probe.is_held = False
    wait_until(lambda: probe.trigger("vla_policy/reset_estop").success, "reset")


def come_to_hold(graph) -> None:
    graph.probe.trigger("vla_policy/hold")


def come_to_estop(graph) -> None:
    graph.probe.estop(True)
    wait_until(lambda: graph.probe.mode() == "ESTOP", "ESTOP")


def lose_teleop(graph) -> None:
    graph.probe.modes.clear()
    graph.probe.teleop(list(graph.probe.positions))
    wait_until(lambda: "TELEOP" in graph.probe.modes, "TELEOP")
    wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD after silence")


def restart(graph) -> None:
    for state in ("inactive", "active"):
        graph.bring("vla_policy", state)


PLACES = {"HOLD": come_to_hold, "ESTOP": come_to_estop, "TELEOP lost": lose_teleop, "before engage": restart}


def is_at(probe: Probe, positions: np.ndarray) -> bool:
    return bool(probe.commands) and np.allclose(probe.commands[-1].points[0].positions, positions, atol=1e-6)


def goal_of(probe: Probe) -> np.ndarray:
    """Away from where the arm is, within the limits of its joints."""
    return probe.positions - np.where(probe.positions > 0.2, WAY, -WAY)


def is_left_where_pushed(probe: Probe) -> bool:
    """Tried again where a busy machine holds the hand up so long that the arm seems to rest on the way."""
    goal = goal_of(probe)
    probe.push(goal, SPEED)
    return becomes_true(lambda: is_at(probe, goal), SETTLED_S)


@pytest.mark.parametrize("place", PLACES)
def test_an_arm_that_is_moved_by_hand_is_named_and_commanded_to_stay_where_it_rests(graph, hand, place):
    PLACES[place](graph)
    wait_until(lambda: is_at(hand, hand.positions), "a command")
    wait_until(lambda: is_left_where_pushed(hand), "commands where the arm rests")
    graph.probe.wait_for_words("joint 'base' is measured", "max_tracking_error", "it rests and is commanded to stay")
    assert hand.largest_gap <= 1.0 + MARGIN
    hand.is_held, hand.largest_gap = False, 0.0
    hand.estop(False)
    wait_until(lambda: hand.trigger("vla_policy/reset_estop").success, "reset")
    hand.drive()
    assert hand.largest_gap < 1.0


def test_a_driver_that_starts_again_elsewhere_is_followed_there(graph, hand):
    wait_until(lambda: is_at(hand, hand.positions), "a command")
    hand.silent.add("joints")
    goal = goal_of(hand)
    hand.push(goal, 100.0)
    hand.largest_gap = 0.0
    hand.commands.clear()
    hand.silent.clear()
    wait_until(lambda: is_at(hand, goal), "commands where the arm rests")
    graph.probe.wait_for_words("joint 'base' is measured", "max_tracking_error")


def test_a_driver_that_jumps_is_named_and_nobody_drives(graph, hand):
    here = hand.positions
    hand.is_held = True
    there, hand.largest_gap = goal_of(hand), 0.0

    def is_refused() -> bool:
        hand.positions = here if hand.positions is there else there
        return "second publisher" in hand.trigger("vla_policy/engage").message

    wait_until(is_refused, "a refusal")
    graph.probe.wait_for_words("jumped: joint 'base'")
