"""A folder of results: what is there, what is missing, and all of them together as one replay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from vla_ros.replay.baseline.provenance import Provenance, bag_name, bags_by_name
from vla_ros.replay.episodes import EpisodePath
from vla_ros.replay.fleet.plan import Plan
from vla_ros.replay.fleet.result import DamagedResult, Result, read, write_whole
from vla_ros.replay.fleet.task import Done, Task
from vla_ros.replay.records import Replay
from vla_ros.replay.session import ReplaySession, SessionConfig
from vla_ros.strict import config_to_dict, explained, parse_config, parse_json, read_text

RUN_PREFIX, RUN_BYTES = "run-", 64 << 20
KEY_LENGTH = 16
REPEAT = "replay the bags into that folder again, which does what is missing or damaged"


@dataclass(frozen=True)
class Run:
    """What is replayed with what: a results folder says it in ``run-KEY.json``. Bags are as they were given."""

    plan: Plan
    bags: tuple[str, ...]


class ResultsFolder:
    """The results of one run in ``path``; those of others may lie beside them."""

    def __init__(self, path: Path, run: Run) -> None:
        """Raises ValueError for two bags of one name, and a folder that lies in a bag or a policy."""
        self.path, self.run = path, run
        self._root = Path(run.plan.folder)
        bags_by_name([self._root / bag for bag in run.bags])
        for inside in (*run.bags, *(policy.folder for policy in run.plan.policies)):
            named = EpisodePath.of(self._root / inside)
            if path.resolve().is_relative_to((named.folder if named else self._root / inside).resolve()):
                raise ValueError(f"results {path}: lies in {inside}, which they are made of; give a folder elsewhere")

    @classmethod
    def find(cls, path: Path) -> ResultsFolder:
        """The run of a folder, or of one of its run files.

        Raises ValueError where it holds none, or several.
        """
        files = [path] if path.is_file() else sorted(path.glob(f"{RUN_PREFIX}*.json"))
        if not files:
            raise ValueError(f"results {path}: no {RUN_PREFIX}*.json; give a folder that replay --results made")
        runs = [_read_run(file) for file in files]
        if len(files) > 1:
            found = ", ".join(f"{file.name} ({_in_words(run)})" for file, run in zip(files, runs, strict=True))
            raise ValueError(f"results {path}: holds several replays: {found}; give one of these files")
        return cls(files[0].parent, runs[0])

    def begin(self) -> None:
        """Say what is replayed here. Raises ValueError where that can't be written."""
        document = json.dumps(config_to_dict(self.run), indent=1) + "\n"
        write_whole(self.path / f"{RUN_PREFIX}{self.run.plan.key[:KEY_LENGTH]}.json", document.encode())

    def paths(self, bag: str) -> list[Path]:
        """Where a bag's results are, one for each policy."""
        name = bag_name(self._root / bag)
        return [self.path / f"{name}.{key[:KEY_LENGTH]}.safetensors" for key in self.run.plan.keys]

    def missing(self, bags: Sequence[str], done: list[str], notes: list[str]) -> Iterator[Task]:
        """What of ``bags`` is still to be replayed; ``done`` gathers the others, ``notes`` what is damaged."""
        for bag in bags:
            lacking = tuple(i for i in range(len(self.run.plan.keys)) if not self._has(bag, i, notes))
            if lacking:
                yield Task(bag, lacking)
            else:
                done.append(bag)

    def _has(self, bag: str, index: int, notes: list[str]) -> bool:
        """Whether a bag has its result with one policy. One of which nothing could be used is tried again: it may have
        been copied, or its disk mounted, since."""
        try:
            result = self._read(bag, index)
        except FileNotFoundError:
            return False
        except DamagedResult as error:
            notes.append(f"{error}: replayed again")
            return False
        return result.replay is not None and result.is_of(self._root / bag)

    def read(self, bag: str) -> list[Result]:
        """A bag's results, one for each policy. Raises FileNotFoundError or DamagedResult as ``read`` does."""
        return [self._read(bag, index) for index in range(len(self.run.plan.keys))]

    def _read(self, bag: str, index: int) -> Result:
        path = self.paths(bag)[index]
        result = read(path, self.run.plan.keys[index])
        if result.bag != bag:
            raise DamagedResult(f"result {path}: is of bag {result.bag}; expected {bag}")
        return result

    def replay(self, bag: str, index: int) -> Replay:
        """Of a bag that could be used, with one policy. Raises as ``read`` does."""
        replay = self._read(bag, index).replay
        assert replay is not None, "it was there a moment ago"
        return replay

    def write(self, done: Done) -> None:
        """Raises ValueError where the results can't be written."""
        paths = self.paths(done.task.bag)
        for index, data in zip(done.task.policies, done.results, strict=True):
            write_whole(paths[index], data)

    def merge(self, driver: str) -> ReplaySession:
        """All results as one replay; those of one bag are looked at at a time.

        Raises ValueError, in one line, where any is missing or damaged, where no bag could be used, and as
        ``ReplaySession.of`` does.
        """
        plan = self.run.plan
        found = self._look_through()
        if not found.used:
            raise ValueError("; ".join(found.unused) or f"results {self.path}: of no bag at all")
        config = SessionConfig(
            bags=tuple(map(Path, self.run.bags)),
            policies=tuple(Path(policy.folder) for policy in plan.policies),
            robot=plan.robot(),
            settings=plan.settings,
            driver=driver,
            device=plan.device,
            num_threads=plan.num_threads,
            folder=self._root,
        )
        replays = tuple(_StoredReplays(self, found.used, i) for i in range(len(plan.policies)))
        origin = Provenance(
            policy_files=plan.policies[0].files,
            bags=found.digests,
            settings=plan.values,
            camera_names=plan.policies[0].camera_names,
            machine="; ".join(sorted(found.machines)),
        )
        return ReplaySession.of(config, replays, origin, found.unused, found.drifts)

    def _look_through(self) -> _Found:
        """What is known of all results but the replays themselves."""
        found, missing, names = _Found(), [], [policy.name for policy in self.run.plan.policies]
        refused: list[list[str]] = [[] for _ in names]
        for bag in self.run.bags:
            try:
                results = self.read(bag)
            except FileNotFoundError:
                missing.append(bag)
                continue
            except DamagedResult as error:
                raise ValueError(f"{error}; {REPEAT}") from error
            found.machines |= {result.machine for result in results}
            drifts = (f"'{name}': {one.drift}" for name, one in zip(names, results, strict=True) if one.drift)
            found.drifts += [line for line in drifts if line not in found.drifts]
            first = next((i for i, result in enumerate(results) if result.replay is None), None)
            if first is None:
                found.used.append(bag)
                found.digests[bag_name(self._root / bag)] = results[0].digest
            else:
                refused[first].append(results[first].refusal)
        if missing:
            count = f"{len(missing)} of {len(self.run.bags)} bags have no result, the first is {missing[0]}"
            raise ValueError(f"results {self.path}: {count}; {REPEAT}")
        found.unused = [line for lines in refused for line in lines]
        return found


class _Found:
    """Of results: bags that could be used, their digests by name, and lines about the rest."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self.digests: dict[str, str] = {}
        self.machines: set[str] = set()
        self.drifts: list[str] = []
        self.unused: list[str] = []


class _StoredReplays(Sequence[Replay]):
    """The replays of ``bags`` with the policy of an ``index``, each read when it is looked at."""

    def __init__(self, folder: ResultsFolder, bags: Sequence[str], index: int) -> None:
        self._folder, self._bags, self._index = folder, bags, index

    def __len__(self) -> int:
        return len(self._bags)

    @overload
    def __getitem__(self, which: int) -> Replay: ...

    @overload
    def __getitem__(self, which: slice) -> Sequence[Replay]: ...

    def __getitem__(self, which: int | slice) -> Replay | Sequence[Replay]:
        if isinstance(which, slice):
            return _StoredReplays(self._folder, self._bags[which], self._index)
        return self._folder.replay(self._bags[which], self._index)


def _read_run(path: Path) -> Run:
    with explained(f"results {path}: ", OSError, ValueError, after="; replay the bags into that folder again"):
        return parse_config(Run, parse_json(read_text(path, RUN_BYTES)), "run")


def _in_words(run: Run) -> str:
    names = " and ".join(policy.name for policy in run.plan.policies)
    return f"{names} on {len(run.bags)} bags, {run.plan.settings.strategy}"
