"""What went wrong, a line for each kind of thing however often it happens."""

from __future__ import annotations

from collections import Counter

from vla_ros.strict import one_line

MAX_KINDS = 100


class Tally:
    """The first line of each kind, and how often it came; beyond ``MAX_KINDS`` kinds they are only counted."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._num: Counter[str] = Counter()
        self._num_beyond = 0

    def add(self, kind: str, line: str) -> None:
        """One thing of ``kind`` went wrong; ``line`` says it whole."""
        if kind in self._first or len(self._first) < MAX_KINDS:
            self._first.setdefault(kind, one_line(line))
            self._num[kind] += 1
        else:
            self._num_beyond += 1

    @property
    def lines(self) -> tuple[str, ...]:
        """What went wrong so far, in the order it was first seen."""
        lines = [
            line if self._num[kind] == 1 else f"{line} ({self._num[kind]} times)" for kind, line in self._first.items()
        ]
        return (*lines, f"{self._num_beyond} further problems of other kinds") if self._num_beyond else tuple(lines)
