"""Whether a policy may touch the robot, in a word, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.replay.baseline.pairs import BAG, BEHAVIOUR, FILE, INPUT, SETTING, Difference
from vla_ros.replay.judge.paired import MIN_EPISODES, PairedDifference
from vla_ros.replay.judge.summary import PolicySummary
from vla_ros.types import Mode

PASS, FAIL, NO_BASELINE = "pass", "fail", "no baseline"
ASK_FOR_BASELINE = (
    "there is nothing to judge by: give --baseline FILE (--update-baseline writes one), or the trusted policy and the "
    "new one: --policy TRUSTED --policy NEW"
)
_HEADLINES = {
    BAG: "the bags are not the baseline's",
    SETTING: "settings or robot file are not the baseline's",
    INPUT: "what the policy sees changed (the processor, its files or a library)",
    BEHAVIOUR: "what the policy does changed",
    FILE: "files of the policy directory changed",
}
_RENEWAL = "if that is as it should be, renew the baseline: --update-baseline"


@dataclass(frozen=True)
class Verdict:
    """``word`` is ``pass``, ``fail`` or, with nothing to judge by, ``no baseline``; ``reasons`` are lines."""

    word: str
    reasons: tuple[str, ...]


def judge_by_baseline(differences: Sequence[Difference]) -> Verdict:
    """Pass where nothing differs from the stored result."""
    if not differences:
        return Verdict(PASS, ("nothing differs from the baseline",))
    return Verdict(FAIL, (_headline(differences), *(difference.line for difference in differences)))


def _headline(differences: Sequence[Difference]) -> str:
    """What kinds of differences there are, and what follows, in one line."""
    kinds = {difference.kind for difference in differences}
    said = "; ".join(text for kind, text in _HEADLINES.items() if kind in kinds)
    if kinds == {FILE}:
        said += ", but the policy sees and does the same"
    elif kinds <= {INPUT, BEHAVIOUR}:
        said += ", and the files of the policy directory are the same: look at the code, the libraries and the device"
    return f"{said}; {_RENEWAL}"


def judge_alone(summary: PolicySummary, why: str = ASK_FOR_BASELINE) -> Verdict:
    """No judgement, and ``why``: errors alone don't say what is good enough."""
    seen = (f"{_failures(summary)} with '{summary.name}'; see the list",) if _num_failures(summary) else ()
    return Verdict(NO_BASELINE, (why, *seen))


def judge_second(a: PolicySummary, b: PolicySummary, differences: Sequence[PairedDifference]) -> Verdict:
    """Whether the new policy ``b`` is as good as the trusted ``a``, from ``paired_differences(a, b)``.

    Fails where watchdogs fire or answers are refused more often, or where its overall error is larger and the interval
    excludes zero. Errors count only where a human drove, or nobody knows who: what a policy itself commanded speaks for
    that policy.
    """
    if _num_failures(b) > _num_failures(a):
        return Verdict(FAIL, (f"{_failures(b)} with '{b.name}'; {_failures(a)} with '{a.name}'",))
    if b.num_by_driver.get(Mode.POLICY, 0):
        return Verdict(
            NO_BASELINE,
            ("a policy drove when the bags were recorded, and its own commands speak for it: give --driver teleop",),
        )
    overall = next((d for d in differences if not d.joint), None)
    if overall is None or overall.num_episodes < MIN_EPISODES:
        num_episodes = overall.num_episodes if overall is not None else 0
        return Verdict(NO_BASELINE, (f"{num_episodes} episodes compared; it takes {MIN_EPISODES} to judge",))
    worse = [d for d in differences if d.low > 0 and d is not overall]
    lines = (_line(overall), *map(_line, worse))
    return Verdict(FAIL if overall.low > 0 else PASS, lines)


def _num_failures(summary: PolicySummary) -> int:
    """A policy that gives nothing that can be followed has no errors either."""
    return summary.num_incidents["watchdog"] + summary.num_incidents["processor"]


def _failures(summary: PolicySummary) -> str:
    stops, refusals = summary.num_incidents["watchdog"], summary.num_incidents["processor"]
    return (
        f"watchdogs would have stopped the robot {stops} times and {refusals} images, answers or teleop messages were "
        "refused"
    )


def _line(difference: PairedDifference) -> str:
    unit = f" of joint '{difference.joint}' (rad or m)" if difference.joint else " in % of the joints' ranges"
    against = "where the robot went" if difference.is_measured else "the recorded commands"
    mean, low, high = (difference.scale * x for x in (difference.difference, difference.low, difference.high))
    how = "larger" if difference.low > 0 else "smaller" if difference.high < 0 else "not different"
    return (
        f"the error of '{difference.b}' against {against}{unit} is {how}: {mean:+.3g} (95 % interval {low:+.3g} to "
        f"{high:+.3g}, {difference.num_episodes} episodes)"
    )
