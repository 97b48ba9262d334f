"""The policy's side of the control loop: what it is asked, what it answered, and what of that is followed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vla_ros.runtime.delay import DelayEstimate, count_consumed
from vla_ros.runtime.path import Target, path_of
from vla_ros.runtime.schedule import Scheduler
from vla_ros.types import ActionChunk, ChunkShape, Continuation, Observation
from vla_ros.units import NS_PER_S

MAX_OUTSTANDING = 2


@dataclass(frozen=True)
class Asked:
    """An observation that the policy was asked about at ``asked_ns``."""

    asked_ns: int
    observation: Observation


class PolicyDriver:
    """Requests, answers and the schedule of what is followed.

    A request counts as lost after ``retry_s``; then another may go out, and the answer to either is taken.
    ``waiting_since_ns`` is when the first request since the last answer was made, ``followed_ns`` the stamp of the
    observation behind what is followed; ``shadow`` is the newest chunk made while a human drove.
    """

    def __init__(self, scheduler: Scheduler, retry_s: float) -> None:
        self.delays = DelayEstimate()
        self.followed_ns: int | None = None
        self.shadow: ActionChunk | None = None
        self._scheduler = scheduler
        self._retry_s = retry_s
        self.waiting_since_ns: int | None = None
        self._outstanding: list[Asked] = []
        self._last_asked_ns: int | None = None

    def is_busy(self, now_ns: int) -> bool:
        """Whether an answer is due that may still come."""
        if not self._outstanding:
            return False
        return now_ns - self._outstanding[-1].asked_ns <= self._retry_s * NS_PER_S

    def ask(self, observation: Observation, now_ns: int) -> bool:
        """Whether ``observation`` is a new one; it is asked about from now on."""
        if observation.stamp_ns == self._last_asked_ns:
            return False
        self._outstanding = [*self._outstanding[1 - MAX_OUTSTANDING :], Asked(now_ns, observation)]
        self._last_asked_ns = observation.stamp_ns
        if self.waiting_since_ns is None:
            self.waiting_since_ns = now_ns
        return True

    def asked(self, stamp_ns: int) -> Asked | None:
        """What was asked about the observation of ``stamp_ns`` if its answer is waited for."""
        return next((asked for asked in self._outstanding if asked.observation.stamp_ns == stamp_ns), None)

    def answered(self, stamp_ns: int) -> None:
        """The answer to ``stamp_ns`` has come: nothing older is waited for."""
        self._outstanding = [asked for asked in self._outstanding if asked.observation.stamp_ns > stamp_ns]
        self.waiting_since_ns = self._outstanding[0].asked_ns if self._outstanding else None

    def follow(self, chunk: ActionChunk, start_positions: np.ndarray, now_ns: int) -> None:
        """Follow an answer from now on. The first starts from rest: it begins now, whenever its observation was."""
        if self.followed_ns is None:
            self._scheduler.offer(replace(chunk, stamp_ns=now_ns), start_positions, now_ns)
        else:
            num_late = self.delays.add(count_consumed(chunk, now_ns))
            self._scheduler.offer(chunk, start_positions, now_ns, num_late)
        self.followed_ns = chunk.stamp_ns

    def follow_shadow(self, chunk: ActionChunk, start_positions: np.ndarray, now_ns: int) -> None:
        """Follow a chunk that was made while a human drove; how old it is says nothing of the model's delay."""
        self._scheduler.offer(chunk, start_positions, now_ns)
        self.followed_ns = chunk.stamp_ns

    def target(self, t_ns: int) -> Target | None:
        return self._scheduler.target(t_ns)

    def is_near(self, chunk: ActionChunk, positions: np.ndarray, now_ns: int, distance: float) -> bool:
        """Whether a chunk reaches ``now_ns`` and has every joint within ``distance`` of ``positions`` there."""
        target = path_of(chunk, positions).at(now_ns)
        return target is not None and bool(np.abs(target.positions - positions).max() <= distance)

    def continuation(self, observation: Observation, shape: ChunkShape) -> Continuation | None:
        """What the answer to ``observation`` is to continue; None where nothing is followed or no delay is known yet.

        Raises ValueError where the chunk is too short for the delay.
        """
        num_frozen = self.delays.predicted
        if self.followed_ns is None or num_frozen is None:
            return None
        if shape.horizon < 2 * num_frozen + 4:
            raise ValueError(
                f"rtc: a delay of {num_frozen} actions needs chunks of {2 * num_frozen + 4}, the policy's have "
                f"{shape.horizon}; not guided: use a faster device, or strategy ensemble"
            )
        targets = [self._scheduler.target(shape.due_ns(observation.stamp_ns, k)) for k in range(shape.horizon)]
        if targets[0] is None:
            return None
        nothing = np.full_like(targets[0].positions, np.nan)
        continuation = Continuation(np.stack([nothing if t is None else t.positions for t in targets]), num_frozen)
        # What ends before the answer comes, after a stall say, can't be continued.
        return continuation if continuation.is_known.sum() >= num_frozen else None

    def forget(self) -> None:
        """Nothing of what was asked or answered is followed any more."""
        self._scheduler.clear()
        self._outstanding = []
        self.waiting_since_ns = self.followed_ns = self.shadow = None
