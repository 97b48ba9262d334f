"""What is handed to a worker, and back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A bag, as it was given where the replay was asked for, and the policies (indices) with which it has no result."""

    bag: str
    policies: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """A task and its encoded results, one for each of its policies; ``is_refused`` where nothing of the bag could be
    used. Where no worker lived to make them, ``lost`` says why."""

    task: Task
    results: tuple[bytes, ...] = ()
    is_refused: bool = False
    lost: str = ""
