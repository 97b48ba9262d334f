"""Chunks known by the observation they answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar


class _OfObservation(Protocol):
    @property
    def header_ns(self) -> int: ...


Chunk = TypeVar("Chunk", bound=_OfObservation)


def by_observation(chunks: Sequence[Chunk]) -> dict[tuple[int, int], Chunk]:
    """Chunks by their observation's ``header_ns`` and how many of it came before: a policy may be asked twice."""
    seen: Counter[int] = Counter()
    found = {}
    for chunk in chunks:
        found[chunk.header_ns, seen[chunk.header_ns]] = chunk
        seen[chunk.header_ns] += 1
    return found
