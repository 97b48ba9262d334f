"""What ``vla_policy`` and ``vla_model`` do, in given time: the control loop, the processor and the policy that drive
the robot, each result taken when it is due. No ROS graph, no clock and no thread: the same input gives the same
commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vla_ros.runtime.handoff import Mode
from vla_ros.runtime.loop import ControlLoop, Tick
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Answer, Continuation, Observation

if TYPE_CHECKING:
    from vla_ros.policies.processor import PolicyProcessor

Infer = Callable[[PolicyRequest], np.ndarray]
"""The policy: normalised actions float32 ``[horizon, action_dim]`` for one request."""
Latency = Callable[[Observation], int | None]
"""How long the answer to an observation takes after it was asked for, in ns; None: until ``OfflineNodes.release``."""


class Listener(Protocol):
    """Hears what happens, in the order of time."""

    def ticked(self, now_ns: int, tick: Tick) -> None:
        """A control tick has ended."""

    def answered(self, answer: Answer, is_used: bool) -> None:
        """An answer has come; whether the loop had a use for it."""

    def failed(self, now_ns: int, problem: str) -> None:
        """No request could be made, or an answer could not be used: one line that says why."""


@dataclass(frozen=True)
class _Due:
    """``arrived_ns`` is None as long as nobody knows."""

    arrived_ns: int | None
    asked_ns: int
    observation: Observation
    actions: np.ndarray


class OfflineNodes:
    """Both nodes around one ``loop``, which is the caller's to engage and to feed.

    Ticks are due every ``period_ns`` from ``start_ns`` on; the model takes one request after the other.
    """

    def __init__(
        self,
        loop: ControlLoop,
        processor: PolicyProcessor,
        infer: Infer,
        latency: Latency,
        listener: Listener,
        start_ns: int,
        period_ns: int,
    ) -> None:
        self._loop = loop
        self._processor = processor
        self._infer = infer
        self._latency = latency
        self._listener = listener
        self._period_ns = period_ns
        self._next_tick_ns = self._earliest_tick_ns = start_ns
        self._model_free_ns = start_ns
        self._due: list[_Due] = []
        self._lag_ns = 0

    def follow_tick(self, sent_ns: int) -> None:
        """A recorded command was sent at ``sent_ns``, at its tick or a little later: ticks are as early as the earliest
        of these. What happened up to a quarter of a period after a tick may have come before it, and is waited for.

        No two ticks come closer than three quarters of a period: the limits allow each a whole period's motion."""
        behind_ns = (sent_ns - self._next_tick_ns + self._period_ns // 2) % self._period_ns - self._period_ns // 2
        if behind_ns < 0 or not self._lag_ns:
            self._next_tick_ns = max(self._next_tick_ns + behind_ns, self._earliest_tick_ns)
            self._lag_ns = self._period_ns // 4

    def run_until(self, end_ns: int) -> None:
        """Every tick and every answer that is due before ``end_ns``, in the order of time."""
        self._run_until(end_ns, self._lag_ns)

    def _run_until(self, end_ns: int, lag_ns: int) -> None:
        end_ns -= lag_ns
        while True:
            answer_ns = end_ns if not self._due or self._due[0].arrived_ns is None else self._due[0].arrived_ns
            if min(answer_ns, self._next_tick_ns) >= end_ns:
                return
            if answer_ns <= self._next_tick_ns:
                self._take(self._due.pop(0), answer_ns)
                self.ask(answer_ns)
            else:
                self._listener.ticked(self._next_tick_ns, self._loop.tick(self._next_tick_ns))
                self._earliest_tick_ns = self._next_tick_ns + self._period_ns - self._period_ns // 4
                self._next_tick_ns += self._period_ns

    def ask(self, now_ns: int) -> None:
        """Ask the policy where the loop wants to; to be called when a frame has come or the mode has changed."""
        try:
            observation = self._loop.begin_request(now_ns)
        except ValueError as error:  # an image that is decoded only now
            return self._listener.failed(now_ns, f"observation: {error}")
        actions = None if observation is None else self._answer(observation, now_ns)
        if observation is not None and actions is not None:
            self._wait_for(observation, actions, now_ns)

    def release(self, header_ns: int, now_ns: int) -> None:
        """The answers to observations up to ``header_ns`` that nobody knew the time of come now."""
        while self._due and self._due[0].arrived_ns is None and self._due[0].observation.header_ns <= header_ns:
            self._take(self._due.pop(0), now_ns)
        self.ask(now_ns)

    def repeat(self, observation: Observation, asked_ns: int, now_ns: int) -> None:
        """Ask about this very observation, as it was at ``asked_ns``; the answer comes now."""
        if self._loop.begin_request(asked_ns, observation) is None:
            return
        actions = self._answer(observation, asked_ns)
        if actions is not None:
            self._run_until(now_ns, lag_ns=0)
            self._take(_Due(now_ns, asked_ns, observation, actions), now_ns)

    def _wait_for(self, observation: Observation, actions: np.ndarray, asked_ns: int) -> None:
        """At most ``MAX_OUTSTANDING`` answers are due: each holds images, and the loop has no use for more."""
        latency_ns = self._latency(observation)
        arrived_ns = None
        if latency_ns is None:
            self._due = self._due[1 - MAX_OUTSTANDING :]
        else:
            if len(self._due) == MAX_OUTSTANDING:  # as in vla_model: the newest request displaces the one that waits
                self._due.pop()
                self._model_free_ns = self._due[-1].arrived_ns
            arrived_ns = self._model_free_ns = max(asked_ns, self._model_free_ns) + latency_ns
        self._due.append(_Due(arrived_ns, asked_ns, observation, actions))

    def _answer(self, observation: Observation, now_ns: int) -> np.ndarray | None:
        try:
            return self._infer(self._processor.process(observation, self._continuation(observation, now_ns)))
        except ValueError as error:
            self._fail(now_ns, f"processor: {error}")
            return None

    def _continuation(self, observation: Observation, now_ns: int) -> Continuation | None:
        try:
            return self._loop.continuation(observation, self._processor.chunk_shape)
        except ValueError as error:
            self._listener.failed(now_ns, str(error))
            return None

    def _take(self, due: _Due, now_ns: int) -> None:
        try:
            chunk = self._processor.decode(due.actions, due.observation)
        except ValueError as error:
            return self._fail(now_ns, f"processor: {error}")
        is_awaited = self._loop.requested(chunk.stamp_ns) is not None
        is_used = self._loop.accept(chunk, now_ns)
        self._listener.answered(Answer(due.observation, chunk, due.asked_ns, now_ns), is_used)
        if is_awaited and not is_used:
            # The loop says why where the policy drives; it leaves a human alone.
            fault = self._loop.fault if self._loop.mode is not Mode.TELEOP else None
            why = "actions of another shape, or that are not finite" if fault is None else fault.line
            self._listener.failed(now_ns, f"answer: {why}")

    def _fail(self, now_ns: int, problem: str) -> None:
        self._loop.fail_policy(problem, now_ns)
        self._listener.failed(now_ns, problem)
