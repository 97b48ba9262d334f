"""Replays what of a fleet's bags is not in a results folder yet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from vla_ros.replay.fleet.folder import REPEAT, ResultsFolder
from vla_ros.replay.fleet.plan import Plan
from vla_ros.replay.fleet.task import Done, Task
from vla_ros.replay.fleet.worker import BagWorker

ReplayBags = Callable[[Plan, Iterable[Task]], Generator[Done, None, None]]
"""Does tasks of a plan, in whatever order, somewhere."""
Advance = Callable[[int], object]
"""Hears of so many more bags that have a result."""


@dataclass(frozen=True)
class Shard:
    """Every ``num``-th bag, from the ``index``-th on; ``index`` is 1 to ``num``."""

    index: int = 1
    num: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``i/n``. Raises ValueError for anything else."""
        index, _, num = text.partition("/")
        if not (index.isdecimal() and num.isdecimal() and 1 <= int(index) <= int(num)):
            raise ValueError(f"--shard is {text}; expected i/n, with i from 1 to n")
        return cls(int(index), int(num))

    def of(self, bags: Sequence[str]) -> Sequence[str]:
        """Its own of all ``bags``."""
        return bags[self.index - 1 :: self.num]


@dataclass(frozen=True)
class FleetReport:
    """How many bags were replayed now, ``refused`` of them without anything that could be used, and how many had a
    result already; ``notes`` are lines about results that were damaged."""

    replayed: int
    refused: int
    there: int
    notes: tuple[str, ...]


def replay_here(plan: Plan, tasks: Iterable[Task]) -> Generator[Done, None, None]:
    """One task after the other in this process. Raises ValueError as ``BagWorker`` does."""
    worker = None
    for task in tasks:
        worker = worker or BagWorker(plan)
        yield worker.replay(task)


def replay_fleet(folder: ResultsFolder, shard: Shard, replay_bags: ReplayBags, advance: Advance) -> FleetReport:
    """A result for each bag of ``shard``: what is there is left as it is.

    Raises ValueError where results can't be written, as ``BagWorker`` does, and, after all others were replayed, where
    bags were lost with the processes that had them.
    """
    folder.begin()
    bags = shard.of(folder.run.bags)
    there: list[str] = []
    notes: list[str] = []
    lost: list[str] = []
    replayed = refused = advanced = 0
    with closing(replay_bags(folder.run.plan, folder.missing(bags, there, notes))) as all_done:
        for done in all_done:
            if done.lost:
                lost.append(done.lost)
            else:
                folder.write(done)
                replayed += 1
                refused += done.is_refused
            num_known = replayed + len(lost) + len(there)
            advance(num_known - advanced)
            advanced = num_known
    advance(len(bags) - advanced)
    if lost:
        raise ValueError(f"{len(lost)} of {len(bags)} bags have no result: {'; '.join(lost)}; {REPEAT}")
    return FleetReport(replayed, refused, len(there), tuple(notes))
