"""Whether a new policy may touch the robot: by its errors, and by whether it gives anything that can be followed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compare_helpers import START_NS, chunk, episodes, event, replay

from vla_ros.replay.judge.paired import paired_differences
from vla_ros.replay.judge.summary import summarize
from vla_ros.replay.judge.verdict import ASK_FOR_BASELINE, FAIL, NO_BASELINE, PASS, judge_alone, judge_second


def test_a_new_policy_fails_where_it_is_surely_further_from_the_human() -> None:
    old, new = episodes([0.1, 0.2, 0.3, 0.1], "old"), episodes([0.2, 0.32, 0.38, 0.2], "new")
    verdict = judge_second(summarize([old]), summarize([new]), paired_differences([old], [new]))
    assert verdict.word == FAIL and "larger" in verdict.reasons[0]
    back = judge_second(summarize([new]), summarize([old]), paired_differences([new], [old]))
    assert back.word == PASS and "smaller" in back.reasons[0]


def test_a_new_policy_fails_where_watchdogs_fire_more_often() -> None:
    old, new = episodes([0.3, 0.3], "old"), episodes([0.1, 0.1], "new")
    new = replace(new, events=(event(1.0, "watchdog"),))
    verdict = judge_second(summarize([old]), summarize([new]), paired_differences([old], [new]))
    assert verdict.word == FAIL and "stopped the robot 1 times" in verdict.reasons[0]


def test_no_policy_is_judged_by_what_a_policy_commanded_nor_by_one_episode() -> None:
    for errors, driver, why in (([0.3, 0.3], "POLICY", "--driver teleop"), ([0.3], "TELEOP", "1 episodes")):
        old, new = episodes(errors, "old", driver=driver), episodes(errors, "new", driver=driver)
        verdict = judge_second(summarize([old]), summarize([new]), paired_differences([old], [new]))
        assert verdict.word == NO_BASELINE and why in verdict.reasons[0]


@pytest.mark.parametrize("kinds", [("processor",) * 3, ("watchdog", "processor", "processor")])
def test_a_new_policy_whose_answers_are_refused_more_often_fails_however_good_the_others_are(kinds) -> None:
    old, new = episodes([0.3, 0.3], "old"), episodes([0.1, 0.1], "new")
    old = replace(old, events=(event(1.0, "watchdog"), event(2.0, "processor")))
    new = replace(new, events=tuple(event(k, kind) for k, kind in enumerate(kinds)))
    verdict = judge_second(summarize([old]), summarize([new]), paired_differences([old], [new]))
    num_refused = kinds.count("processor")
    assert (
        verdict.word == FAIL
        and f"{num_refused} images, answers or teleop messages were refused with 'new'" in verdict.reasons[0]
    )
    assert "1 times and 1 images, answers or teleop messages were refused with 'old'" in verdict.reasons[0]


def test_a_policy_alone_is_not_judged_and_what_went_wrong_is_said() -> None:
    quiet, loud = replay([chunk(START_NS)]), replay([chunk(START_NS)], events=(event(1.0, "processor"),))
    assert judge_alone(summarize([quiet])).reasons == (ASK_FOR_BASELINE,)
    verdict = judge_alone(summarize([loud]), "nothing to judge by")
    assert verdict.word == NO_BASELINE and verdict.reasons[0] == "nothing to judge by"
    assert "1 images, answers or teleop messages were refused" in verdict.reasons[1]
