"""Faults that are braked through where the robot file says so, and end in HOLD where they last."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_helpers import Rig

from vla_ros.types import Mode


def events(rig: Rig) -> list[str]:
    return [event for tick in rig.ticks for event in tick.events]


def test_a_camera_glitch_is_braked_through_where_the_robot_file_says_so():
    rig = Rig(robot=Rig.robot_with(camera="recover"))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(8)
    rig.fresh.remove("front")
    rig.tick(30)
    assert rig.loop.mode is Mode.POLICY and not rig.ticks[-1].command.velocities.any()
    assert any("braking: camera 'front'" in event for tick in rig.ticks for event in tick.events)
    rig.fresh.add("front")
    rig.tick(2)
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    assert rig.tick(5).command.velocities.any()
    rig.assert_within_limits()


def test_a_glitch_that_lasts_too_long_ends_in_hold():
    rig = Rig(robot=Rig.robot_with(camera="recover", max_recovery_s=0.5))
    rig.engage()
    rig.answer(rig.ask())
    rig.fresh.remove("front")
    rig.tick(60)
    assert rig.loop.mode is Mode.HOLD and "camera 'front'" in rig.loop.why


def test_a_late_result_is_braked_through_until_one_comes():
    rig = Rig(robot=Rig.robot_with(result="recover", chunk="recover"))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.3, -0.3))
    rig.ask_later()
    rig.tick(40)
    assert rig.loop.mode is Mode.POLICY and rig.loop.recovering_from.kind in ("result", "chunk")
    assert not rig.ticks[-1].command.velocities.any()
    assert not any(event.startswith("over:") for event in events(rig)), "not over before an answer"
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    assert rig.tick(10).command.velocities.any() and rig.loop.recovering_from is None
    assert sum(event.startswith("braking:") for event in events(rig)) == 1
    rig.assert_within_limits()


@pytest.mark.parametrize("kind", ["result", "chunk"])
def test_a_model_that_answers_no_more_ends_in_hold_and_nothing_moves_by_itself_later(kind):
    rig = Rig(robot=Rig.robot_with(result="recover", chunk="recover", max_recovery_s=1.0))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    last = None
    for _ in range(150):
        # Without a new observation nothing is asked, and the chunk runs out.
        last = (rig.loop.begin_request(rig.now_ns) if kind == "result" else None) or last
        rig.tick()
    assert rig.loop.mode is Mode.HOLD
    assert sum(event.startswith("braking:") for event in events(rig)) == 1
    if last is not None:
        assert not rig.answer(last, goal=(0.9, -1.9))
    assert not rig.tick(5).command.velocities.any()


@pytest.mark.parametrize("action", ["hold", "recover"])
def test_an_answer_that_cannot_be_used_does_what_the_robot_file_says(action):
    rig = Rig(robot=Rig.robot_with(answer=action))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(5)
    assert not rig.answer(rig.ask(), goal=(np.nan, 0.0))
    rig.tick()
    assert rig.loop.fault.kind == "answer" and "not finite" in rig.loop.fault.line
    assert rig.loop.mode is (Mode.HOLD if action == "hold" else Mode.POLICY)
    if action == "recover":
        rig.answer(rig.ask(), goal=(0.9, -1.9))
        assert rig.tick(5).command.velocities.any()
    rig.assert_within_limits()
