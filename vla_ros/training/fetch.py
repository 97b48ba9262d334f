"""What the next steps need, made while this one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Other = TypeVar("Other")
NUM_AHEAD = 2


class Fetcher(Generic[T]):
    """A thread that makes what each step needs, ``NUM_AHEAD`` steps ahead, up to step ``end``. Whatever else goes
    through the same objects is given to it, too, so that one thing is made at a time."""

    def __init__(self, make: Callable[[int], T], end: int) -> None:
        self._make, self._end = make, end
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self._coming: deque[tuple[int, Future[T]]] = deque()

    def take(self, step: int) -> T:
        """What ``step`` needs; raises what making it raised. Steps follow each other, or what was made is in vain."""
        if self._coming and self._coming[0][0] != step:
            self._coming.clear()
        first = self._coming[-1][0] + 1 if self._coming else step
        for number in range(first, max(min(step + NUM_AHEAD, self._end - 1), step) + 1):
            self._coming.append((number, self._thread.submit(self._make, number)))
        return self._coming.popleft()[1].result()

    def call(self, make: Callable[[], Other]) -> Other:
        """What ``make`` gives, in the same thread."""
        return self._thread.submit(make).result()

    def close(self) -> None:
        """End the thread, when what is under way is made."""
        self._thread.shutdown(cancel_futures=True)
