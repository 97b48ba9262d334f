"""Asking the policy as the live node and a replay do: what goes out, what is taken, and what becomes of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runtime_helpers import CHUNK_DT_S, HORIZON, MS, Rig, frame

from vla_ros.runtime.asking import Asking
from vla_ros.runtime.loop import LoopSettings
from vla_ros.types import ActionChunk, ChunkShape, Continuation, Mode, Observation

GOAL = np.full((HORIZON, 2), 0.1)
DIGEST = "0123456789abcdef"


class Processor:
    """Requests are what was asked, actions are the chunk; ``meanwhile`` is called while it decodes."""

    digest = DIGEST
    chunk_shape = ChunkShape(HORIZON, CHUNK_DT_S, 1.0)

    def __init__(self) -> None:
        self.refusal = self.shortfall = ""
        self.meanwhile: Callable[[], None] = lambda: None
        self.num_decoded = 0

    def process(self, observation: Observation, continuation: Continuation | None = None) -> Any:
        if self.refusal:
            raise ValueError(self.refusal)
        return SimpleNamespace(observation=observation, continuation=continuation)

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        self.num_decoded += 1
        self.meanwhile()
        if self.refusal:
            raise ValueError(self.refusal)
        return ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, actions, self.shortfall)


class Lock:
    """Knows whether it is held."""

    def __init__(self) -> None:
        self.is_held = False

    def __enter__(self) -> None:
        assert not self.is_held
        self.is_held = True

    def __exit__(self, *_: object) -> None:
        self.is_held = False


class Asked(Rig):
    """A rig whose policy is asked by the sequence under test."""

    def __init__(self, settings: LoopSettings | None = None) -> None:
        super().__init__(settings)
        self.processor, self.lock = Processor(), Lock()
        self.reported: list[tuple[str, str]] = []
        self.asking = Asking(
            self.loop, self.processor, lambda: self.now_ns, lambda *said: self.reported.append(said), self.lock
        )

    def stamp_of_question(self) -> int:
        question = self.asking.ask()
        assert question is not None
        return question.asked.observation.stamp_ns


@pytest.fixture
def rig() -> Asked:
    rig = Asked()
    rig.engage()
    return rig


def test_an_answer_is_followed_and_knows_when_it_was_asked_for_and_taken(rig):
    asked_ns, stamp_ns = rig.now_ns, rig.stamp_of_question()
    rig.tick(3)
    answer = rig.asking.take(stamp_ns, DIGEST, GOAL)
    assert answer is not None and (answer.asked_ns, answer.arrived_ns) == (asked_ns, rig.now_ns)
    assert answer.observation.stamp_ns == answer.chunk.stamp_ns == stamp_ns
    assert rig.tick().mode is Mode.POLICY and not rig.reported


def test_nothing_is_asked_twice_nor_while_nobody_drives(rig):
    rig.stamp_of_question()
    assert rig.asking.ask() is None
    rig.loop.hold("asked to hold", is_fault=False)
    rig.tick()
    assert rig.asking.ask() is None and not rig.reported


@pytest.mark.parametrize("age", ["forgotten", "never asked"])
def test_an_answer_that_nobody_waits_for_is_not_even_decoded(rig, age):
    stamp_ns = rig.stamp_of_question()
    if age == "forgotten":
        rig.loop.hold("asked to hold", is_fault=False)
    assert rig.asking.take(stamp_ns + (age == "never asked"), "another policy", GOAL) is None
    assert not rig.processor.num_decoded and not rig.reported


def test_an_answer_of_another_policy_ends_in_hold_and_names_both(rig):
    assert rig.asking.take(rig.stamp_of_question(), "fedcba9876543210", GOAL) is None
    assert rig.tick().mode is Mode.HOLD
    ((source, line),) = rig.reported
    assert source == "policy" and "fedcba987654" in line and "0123456789ab" in line and line == rig.loop.why


@pytest.mark.parametrize("step", ["process", "decode"])
def test_what_the_processor_refuses_ends_in_hold_and_says_why(rig, step):
    stamp_ns = rig.stamp_of_question() if step == "decode" else 0
    rig.processor.refusal = "the task is too long"
    assert (rig.asking.take(stamp_ns, DIGEST, GOAL) if step == "decode" else rig.asking.ask()) is None
    assert rig.reported == [("policy", "processor: the task is too long")]
    assert rig.tick().mode is Mode.HOLD and rig.loop.why == "processor: the task is too long"


def test_an_image_that_cannot_be_decoded_is_reported_and_the_policy_drives_on(rig):
    def refuse() -> np.ndarray:
        raise ValueError("not a JPEG")

    stamp_ns = rig.now_ns - 4 * MS
    rig.loop.sensors.cameras["front"].add(replace(frame("front", stamp_ns), decode=refuse))
    rig.loop.sensors.cameras["wrist"].add(frame("wrist", stamp_ns))
    assert rig.asking.ask() is None
    assert rig.reported == [("observation", "observation: not a JPEG")] and rig.loop.mode is Mode.POLICY


def test_an_unusable_answer_while_a_human_drives_is_reported_and_disturbs_nobody():
    rig = Asked()
    rig.tick()
    assert rig.loop.takeover(rig.now_ns) == ""
    assert rig.asking.take(rig.stamp_of_question(), DIGEST, np.full((HORIZON, 2), np.nan)) is None
    assert rig.reported == [("answer", "answer: the policy gave actions that are not finite")]
    assert rig.loop.mode is Mode.TELEOP


def test_an_answer_given_up_while_it_is_decoded_is_dropped_without_a_word(rig):
    rig.processor.meanwhile = lambda: rig.loop.hold("asked to hold", is_fault=False)
    assert rig.asking.take(rig.stamp_of_question(), DIGEST, GOAL) is None
    assert rig.processor.num_decoded == 1 and not rig.reported


def test_the_lock_is_free_while_the_processor_works(rig):
    seen: list[bool] = []
    rig.processor.meanwhile = lambda: seen.append(rig.lock.is_held)
    assert rig.asking.take(rig.stamp_of_question(), DIGEST, GOAL) is not None
    assert seen == [False]


def test_a_chunk_too_short_to_be_guided_is_asked_for_all_the_same_and_reported():
    rig = Asked(LoopSettings(50.0, 0.5, strategy="rtc", handoff_ramp_s=0.0))
    rig.engage()
    for _ in range(3):
        stamp_ns = rig.stamp_of_question()
        rig.tick(5)
        assert rig.asking.take(stamp_ns, DIGEST, GOAL) is not None
    assert {source for source, _ in rig.reported} == {"strategy"} and "chunks of" in rig.reported[0][1]


def test_a_chunk_that_the_arm_cannot_follow_in_full_is_followed_and_told(rig: Asked) -> None:
    rig.processor.shortfall = "2 of 4 poses of 'tip' are missed"
    assert rig.asking.take(rig.stamp_of_question(), DIGEST, GOAL) is not None
    assert rig.reported == [("pose", rig.processor.shortfall)]
