"""Asking the policy: what goes out, what becomes of an answer, and what is wrong with either. The live node and a
replay take the same steps, because they are these."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vla_ros import topics
from vla_ros.runtime.loop import ControlLoop
from vla_ros.runtime.policy_driver import Asked
from vla_ros.types import ActionChunk, Answer, ChunkShape, Continuation, Observation


class AskingProcessor(Protocol):
    """What asking needs of a policy's processor; ``process`` and ``decode`` raise ValueError for what they refuse."""

    @property
    def digest(self) -> str: ...

    @property
    def chunk_shape(self) -> ChunkShape: ...

    def process(self, observation: Observation, continuation: Continuation | None = None) -> Any: ...

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk: ...


@dataclass(frozen=True)
class PreparedRequest:
    """``request`` is what the processor made of what is asked."""

    asked: Asked
    request: Any


class Asking:
    """Keeps the policy busy while ``loop`` wants chunks.

    ``now`` says what time it is, ns; ``lock`` is held around every call of ``loop``, never while the processor works.
    ``report`` gets the source and one line of whatever goes wrong.
    """

    def __init__(
        self,
        loop: ControlLoop,
        processor: AskingProcessor,
        now: Callable[[], int],
        report: Callable[[str, str], None],
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._loop = loop
        self._processor = processor
        self._now = now
        self._report = report
        self._lock = nullcontext() if lock is None else lock

    def ask(self, repeated: Observation | None = None) -> PreparedRequest | None:
        """What to ask the policy now, about ``repeated`` or else what the sensors make; None where it need not or
        cannot be asked. To be called when a frame has come, an answer was taken, or the mode has changed."""
        continuation: Continuation | None = None
        with self._lock:
            now_ns = self._now()
            try:
                observation = self._loop.begin_request(now_ns, repeated)
            except ValueError as error:  # an image that is decoded only now
                self._report("observation", f"observation: {error}")
                return None
            if observation is None:
                return None
            try:
                continuation = self._loop.continuation(observation, self._processor.chunk_shape)
            except ValueError as error:
                self._report("strategy", str(error))
        try:
            return PreparedRequest(Asked(now_ns, observation), self._processor.process(observation, continuation))
        except ValueError as error:
            self.fail(f"processor: {error}")
            return None

    def take(self, stamp_ns: int, digest: str, actions: np.ndarray) -> Answer | None:
        """What policy ``digest`` answered to the observation of ``stamp_ns``; None where it is of no use: too late,
        nobody waits for it any more, or unusable, which is a fault."""
        with self._lock:
            asked = self._loop.requested(stamp_ns)
        if asked is None:
            return None
        refusal = digest_refusal(digest, self._processor.digest)
        if refusal:
            self.fail(refusal)
            return None
        try:
            chunk = self._processor.decode(actions, asked.observation)
        except ValueError as error:
            self.fail(f"processor: {error}")
            return None
        if chunk.shortfall:
            self._report("pose", chunk.shortfall)
        with self._lock:
            now_ns = self._now()
            if self._loop.requested(stamp_ns) is None:
                return None
            if not self._loop.accept(chunk, now_ns):
                self._report("answer", f"answer: {self._loop.unusable(chunk)}")
                return None
        return Answer(asked.observation, chunk, asked.asked_ns, now_ns)

    def fail(self, why: str) -> None:
        """The policy could not be asked, or what it answered is of no use."""
        with self._lock:
            self._loop.fail_policy(why, self._now())
        self._report("policy", why)


def digest_refusal(digest: str, expected: str) -> str:
    """Why answers of policy ``digest`` cannot be used where ``expected`` is the processor's; empty where they can."""
    if digest == expected:
        return ""
    return (
        f"{topics.MODEL_NODE} has loaded policy {digest[:12] or 'unknown'} and this processor belongs to "
        f"{expected[:12]}; give both nodes the same policy directory"
    )
