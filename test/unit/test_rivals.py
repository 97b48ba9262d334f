"""Two publishers that talk in turn are told from one that was started again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count

import pytest

from vla_ros.ros.rivals import NUM_STEPS_BACK, Turns

MS = 1_000_000
ARM, GRIPPER, BOTH = ("shoulder", "elbow"), ("finger",), ("elbow", "finger")
Heard = tuple[int, tuple[str, ...]]


def one(first: int, names: tuple[str, ...] = ARM, times: int = 50) -> list[Heard]:
    return [(first + i, names) for i in range(times)]


def in_turn(*publishers: list[Heard]) -> list[Heard]:
    return list(chain.from_iterable(zip(*publishers, strict=True)))


def every(step: int, often: list[Heard], seldom: list[Heard]) -> Iterator[Heard]:
    for i, heard in zip(count(), often, strict=False):
        yield heard
        if i % step == step - 1:
            yield seldom[i // step]


CASES: dict[str, tuple[list[Heard], bool]] = {
    "one": (one(1), False),
    "one of which some are lost": (one(1)[::7], False),
    "one that was started again": (one(900) + one(1), False),
    "one that crashed twice": (one(900) + one(1, times=3) + one(1), False),
    "two": (in_turn(one(900), one(5)), True),
    "two that began together": (in_turn(one(1), one(1)), True),
    "one that talks more seldom": (list(every(5, one(1), one(7000))), True),
    "an arm and a gripper": (in_turn(one(900), one(5, GRIPPER)), False),
    "two of which one joint is the same": (in_turn(one(900), one(5, BOTH)), True),
    "an arm, and what names none of its joints": (in_turn(one(900), one(5, ())), False),
}


@pytest.mark.parametrize("what", CASES)
def test_two_publishers_are_those_that_talk_in_turn_about_the_same(what: str) -> None:
    messages, are_two = CASES[what]
    turns = Turns()
    found = [turns.heard(sequence, names, i * 20 * MS) for i, (sequence, names) in enumerate(messages)]
    assert any(found) == are_two


def test_publishers_that_follow_each_other_slowly_are_restarts() -> None:
    turns = Turns()
    assert not any(turns.heard(1, ARM, i * 600 * MS) for i in range(5 * NUM_STEPS_BACK))
