"""What both nodes do, in given time: the control loop, the processor and the policy that drive the robot, each result
taken when it is due. No ROS graph, no clock and no thread: the same input gives the same
commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vla_ros.policies.processor import PolicyProcessor
from vla_ros.runtime.asking import Asking, AskingProcessor
from vla_ros.runtime.loop import ControlLoop, Tick
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING, Asked
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Answer, Observation

Infer = Callable[[PolicyRequest], np.ndarray]
"""The policy: normalised actions float32 ``[horizon, action_dim]`` for one request."""


class Listener(Protocol):
    """Hears what happens, in the order of time."""

    def ticked(self, now_ns: int, tick: Tick) -> None:
        """A control tick has ended."""

    def answered(self, answer: Answer, request: PolicyRequest) -> None:
        """An answer has come that the loop has a use for, and what the policy was given for it."""

    def failed(self, now_ns: int, problem: str) -> None:
        """No request could be made, or an answer could not be used: one line that says why."""


@dataclass(frozen=True)
class _Due:
    """``arrived_ns`` is None until it is known."""

    arrived_ns: int | None
    asked: Asked
    request: PolicyRequest
    actions: np.ndarray


@dataclass(frozen=True)
class ReplayPolicy:
    """A policy as a replay runs it: the processor of the policy node and what ``infer`` does in the model node.

    ``name`` is what a report calls it; ``drift`` is one line where its golden case no longer holds.
    """

    name: str
    processor: PolicyProcessor
    infer: Infer
    drift: str = ""


class OfflineNodes:
    """Both nodes around one ``loop``, which is the caller's to engage and to feed.

    Ticks are due every ``period_ns`` from ``start_ns`` on. The model takes one request after the other, each for
    ``latency_ns``; None: until ``release``.
    """

    def __init__(
        self,
        loop: ControlLoop,
        processor: AskingProcessor,
        infer: Infer,
        latency_ns: int | None,
        listener: Listener,
        start_ns: int,
        period_ns: int,
    ) -> None:
        self._loop = loop
        self._processor = processor
        self._asking = Asking(
            loop, processor, lambda: self._now_ns, lambda _, line: listener.failed(self._now_ns, line)
        )
        self._infer = infer
        self._latency_ns = latency_ns
        self._listener = listener
        self._period_ns = period_ns
        self._now_ns = self._next_tick_ns = self._earliest_tick_ns = start_ns
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
        end_ns -= self._lag_ns
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

    def skip_ticks(self, end_ns: int) -> None:
        """No tick before ``end_ns``; those from then on are whole periods apart from the last one."""
        num_periods = -(-(end_ns - self._next_tick_ns) // self._period_ns)
        self._next_tick_ns += max(0, num_periods) * self._period_ns

    def ask(self, now_ns: int) -> None:
        """Ask the policy where the loop wants to; to be called when a frame has come or the mode has changed."""
        self._now_ns = now_ns
        due = self._ask()
        if due is not None:
            self._wait_for(due)

    def release(self, header_ns: int, now_ns: int) -> None:
        """The answers to observations up to ``header_ns`` come now, as far as their time was not known."""
        while self._due and self._due[0].arrived_ns is None and self._due[0].asked.observation.header_ns <= header_ns:
            self._take(self._due.pop(0), now_ns)
        self.ask(now_ns)

    def repeat(self, observation: Observation, asked_ns: int, now_ns: int) -> None:
        """Ask about this very observation, as it was at ``asked_ns``; the answer comes now."""
        self._now_ns = asked_ns
        due = self._ask(observation)
        if due is not None:
            self.run_until(now_ns + self._lag_ns)  # what happened until now is all known
            self._take(due, now_ns)

    def _ask(self, repeated: Observation | None = None) -> _Due | None:
        question = self._asking.ask(repeated)
        if question is None:
            return None
        try:
            return _Due(None, question.asked, question.request, self._infer(question.request))
        except ValueError as error:
            self._asking.fail(f"processor: {error}")
            return None

    def _wait_for(self, due: _Due) -> None:
        """At most ``MAX_OUTSTANDING`` answers are due: each holds images, and the loop has no use for more."""
        if self._latency_ns is None:
            self._due = self._due[1 - MAX_OUTSTANDING :]
        else:
            if len(self._due) == MAX_OUTSTANDING:  # as in the model node: the newest request displaces the one waiting
                self._due.pop()
                self._model_free_ns = self._due[-1].arrived_ns
            self._model_free_ns = max(due.asked.asked_ns, self._model_free_ns) + self._latency_ns
            due = replace(due, arrived_ns=self._model_free_ns)
        self._due.append(due)

    def _take(self, due: _Due, now_ns: int) -> None:
        self._now_ns = now_ns
        answer = self._asking.take(due.asked.observation.stamp_ns, self._processor.digest, due.actions)
        if answer is not None:
            self._listener.answered(answer, due.request)
