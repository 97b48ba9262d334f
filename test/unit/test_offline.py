"""Both nodes in given time: what is asked, when it is answered, and that it repeats itself."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runtime_helpers import CHUNK_DT_S, HORIZON, MS, PERIOD_NS, ROBOT, S, frame, joints

from vla_ros.replay.offline import OfflineNodes
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING
from vla_ros.types import ActionChunk, Answer, ChunkShape, Continuation, Mode, Observation

START_NS = 100 * S
FRAME_NS = 50 * MS


class FakeProcessor:
    """Requests are what was asked; actions are the chunk."""

    digest = "fake"
    chunk_shape = ChunkShape(HORIZON, CHUNK_DT_S, 1.0)

    def process(self, observation: Observation, continuation: Continuation | None = None) -> Any:
        if observation.task == "unreadable":
            raise ValueError("the task cannot be read")
        return SimpleNamespace(observation=observation, continuation=continuation)

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        return ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, actions)


@dataclass
class Log:
    ticks: list[tuple[int, Tick]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def ticked(self, now_ns: int, tick: Tick) -> None:
        self.ticks.append((now_ns, tick))

    def answered(self, answer: Answer, request: Any) -> None:
        self.answers.append(answer)

    def failed(self, now_ns: int, problem: str) -> None:
        self.problems.append(problem)


GOAL = np.linspace(0, 1, HORIZON + 1)[1:, None] * np.array([[0.2, -0.1]])


def show(loop: ControlLoop, now_ns: int) -> None:
    """An image of each camera, and joint states."""
    for camera in loop.sensors.cameras:
        loop.sensors.cameras[camera].add(frame(camera, now_ns))
    loop.sensors.joints.add(joints(now_ns, 0.0, 0.0))


@dataclass
class Run:
    log: Log
    loop: ControlLoop
    requests: list[Any]


def drive(
    latency_ms: float, seconds: float = 2.0, strategy: str = "latest", task: str = "touch", **settings: Any
) -> Run:
    loop = ControlLoop(ROBOT, LoopSettings(50.0, **{"result_timeout_s": 0.5, "strategy": strategy} | settings))
    loop.sensors.task = task
    log, requests = Log(), []

    def infer(request: Any) -> np.ndarray:
        requests.append(request)
        return GOAL

    nodes = OfflineNodes(loop, FakeProcessor(), infer, round(latency_ms * MS), log, START_NS, PERIOD_NS)
    is_engaged = False
    for now_ns in range(START_NS, START_NS + round(seconds * S), FRAME_NS):
        show(loop, now_ns)
        is_engaged = is_engaged or loop.engage(now_ns) == ""
        nodes.ask(now_ns)
        nodes.run_until(now_ns + FRAME_NS)
    return Run(log, loop, requests)


def test_ticks_come_each_period_and_none_twice():
    times = [now_ns for now_ns, _ in drive(30).log.ticks]
    assert times == list(range(START_NS, START_NS + 2 * S, PERIOD_NS))


@pytest.mark.parametrize("latency_ms", [10, 70, 180])
def test_every_answer_comes_when_it_is_due_and_never_before_the_one_before_it(latency_ms: int):
    run = drive(latency_ms)
    assert len(run.log.answers) > 5
    for answer in run.log.answers:
        assert answer.arrived_ns - answer.asked_ns == latency_ms * MS
        assert answer.observation.stamp_ns <= answer.asked_ns
    assert all(b.asked_ns >= a.arrived_ns for a, b in pairwise(run.log.answers))
    assert run.loop.mode is Mode.POLICY


def test_a_request_that_waits_for_a_busy_model_is_answered_after_it():
    # Longer than half the result's time limit: the loop asks again while the model still works on the first.
    answers = drive(400, result_timeout_s=0.5).log.answers
    assert [answer.arrived_ns - answer.asked_ns for answer in answers[:2]] == [400 * MS, 500 * MS]


def test_a_model_slower_than_its_time_limit_ends_in_hold():
    run = drive(700)
    assert run.loop.mode is Mode.HOLD and not run.log.answers


@pytest.mark.parametrize("latency_ms", [None, 5000.0])
def test_requests_that_nobody_answers_do_not_pile_up(latency_ms: float | None):
    loop = ControlLoop(ROBOT, LoopSettings(50.0, result_timeout_s=100.0))
    loop.sensors.task = "touch"
    asked: list[weakref.ref[Observation]] = []

    def infer(request: Any) -> np.ndarray:
        asked.append(weakref.ref(request.observation))
        return GOAL

    latency_ns = None if latency_ms is None else round(latency_ms * MS)
    nodes = OfflineNodes(loop, FakeProcessor(), infer, latency_ns, Log(), START_NS, PERIOD_NS)
    for now_ns in range(START_NS, START_NS + 4 * S, FRAME_NS):
        show(loop, now_ns)
        if loop.mode is not Mode.POLICY:
            loop.engage(now_ns)
        # As a human who takes over and gives back now and then: the loop forgets what it asked.
        if now_ns % S == S // 2:
            loop.hold("as recorded", is_fault=False)
        nodes.ask(now_ns)
        nodes.run_until(now_ns + FRAME_NS)
        # The loop's own list is of the newest, too.
        assert sum(observation() is not None for observation in asked) <= 2 * MAX_OUTSTANDING
    assert len(asked) > 3


def test_with_rtc_later_requests_carry_what_they_continue():
    run = drive(30, strategy="rtc")
    assert run.requests[0].continuation is None
    guided = [request.continuation for request in run.requests if request.continuation is not None]
    assert not guided and "chunks of 6" in run.log.problems[0]  # five actions are one too few for a delay of one


def test_what_the_processor_refuses_holds_and_is_heard():
    run = drive(30, task="unreadable")
    assert "the task cannot be read" in run.log.problems[0] and run.loop.mode is Mode.HOLD


def test_the_same_input_gives_the_same_commands():
    first, second = (
        np.array([tick.command.positions for _, tick in drive(70).log.ticks if tick.command is not None])
        for _ in range(2)
    )
    assert len(first) and first.tolist() == second.tolist()
