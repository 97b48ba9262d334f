"""How a task for a program above the robot ends, from modes, positions and times alone."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.tasks.run import STILL, Ending, Goal, Outcome, TaskRun
from vla_ros.types import MAX_TASK_CHARACTERS, Mode

GOAL = Goal("touch the red block", timeout_s=5.0, success_topic="block/touched", standstill_s=1.0)


def driven(goal: Goal = GOAL) -> TaskRun:
    """Whose policy has driven since 10.0 s."""
    run = TaskRun(goal)
    assert run.step(10.0, Mode.POLICY, "") is None
    return run


def ending(outcome: Outcome | None) -> Ending | None:
    return None if outcome is None else outcome.ending


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.TELEOP, Outcome(Ending.TAKEN_OVER, "the human drives")),
        (Mode.ESTOP, Outcome(Ending.FAILURE, "ESTOP: pressed")),
        (Mode.HOLD, Outcome(Ending.FAILURE, "HOLD: camera 'front' is 2 s old")),
    ],
)
def test_whoever_else_drives_ends_it(mode: Mode, expected: Outcome) -> None:
    why = expected.reason.partition(": ")[2] or expected.reason
    assert driven().step(11.0, mode, why) == expected


def test_the_hold_before_the_policy_drives_ends_nothing() -> None:
    run = TaskRun(GOAL)
    assert run.step(1.0, Mode.HOLD, "at start") is None and run.seconds(1.0) == 0.0
    assert run.step(100.0, Mode.POLICY, "") is None, "its time begins when the policy drives"
    assert run.seconds(102.5) == 2.5


def test_it_is_done_when_the_topic_says_so_and_not_before_it_began() -> None:
    run = driven()
    assert run.step(11.0, Mode.POLICY, "") is None
    run.done()
    assert run.step(11.0, Mode.POLICY, "") == Outcome(Ending.SUCCESS, "'block/touched' says so")


def test_its_time_ends_and_without_one_it_goes_on() -> None:
    assert driven().step(14.99, Mode.POLICY, "") is None
    assert driven().step(15.0, Mode.POLICY, "") == Outcome(Ending.TIMEOUT, "not done after 5 s")
    assert driven(Goal("tidy up")).step(1e6, Mode.POLICY, "") is None


def test_an_arm_stands_still_when_no_joint_has_left_its_place_for_the_whole_span() -> None:
    run = driven()
    for now_s in np.arange(10.0, 10.9, 0.05):
        run.see(now_s, np.array([0.3, -0.2]))
        assert run.step(now_s, Mode.POLICY, "") is None, "too short"
    run.see(10.95, np.array([0.3, -0.2 + 1.1 * STILL]))
    seen = {}
    for now_s in np.arange(11.0, 13.0, 0.05):
        run.see(now_s, np.array([0.3, -0.2 + 1.1 * STILL + 0.5 * STILL * np.sin(40 * now_s)]))
        seen[now_s] = ending(run.step(now_s, Mode.POLICY, ""))
    first = min(now_s for now_s, found in seen.items() if found)
    assert seen[first] is Ending.SUCCESS and 11.9 < first < 12.1
    assert ending(driven().step(14.0, Mode.POLICY, "")) is None, "where nothing is measured nothing stands still"


def test_a_slow_motion_is_none() -> None:
    run = driven()
    for now_s in np.arange(10.0, 14.9, 0.05):
        run.see(now_s, np.array([1.5 * STILL * (now_s - 10.0)]))
        assert run.step(now_s, Mode.POLICY, "") is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"instruction": " \n"}, "instruction is empty"),
        ({"instruction": "a" * (MAX_TASK_CHARACTERS + 1)}, "characters"),
        ({"timeout_s": -1.0}, "timeout_s is -1; expected seconds, or 0"),
        ({"standstill_s": float("nan")}, "standstill_s is nan"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        Goal(**({"instruction": "touch"} | wrong))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
