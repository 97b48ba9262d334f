"""Waiting for a condition: in vain at once where a process or a thread has ended that a test relies on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 20.0


class Lasting(ABC):
    """What goes on until it is closed: where it ends by itself, whatever a test waits for does not come."""

    open: list[Lasting] = []

    def __init__(self) -> None:
        self.open.append(self)

    @property
    @abstractmethod
    def ended_by(self) -> Exception | None:
        """What ended it; None as long as it goes on."""

    def close(self) -> None:
        """End it, the first time that this is called."""
        if self in self.open:
            self.open.remove(self)


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true value of ``condition``, which may also be about the end of something ``Lasting``."""
    deadline_s = time.monotonic() + patience_s
    while True:
        ends = [lasting.ended_by for lasting in Lasting.open]
        is_late = time.monotonic() >= deadline_s
        value = condition()
        if value:
            return value
        for end in filter(None, ends):
            raise AssertionError(f"waited in vain: {what}: {end}") from end
        if is_late:
            raise AssertionError(f"waited {patience_s:g} s in vain: {what}")
        time.sleep(0.01)


def becomes_true(condition: Callable[[], Any], patience_s: float) -> bool:
    """Whether it does in that time, for who would try something else then."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Whatever was begun in the block and is not closed at its end, as after a failure, is closed then: what it does
    later is no other test's business."""
    before = list(Lasting.open)
    try:
        yield
    finally:
        for lasting in reversed([one for one in Lasting.open if one not in before]):
            lasting.close()
