"""What the page's viewers are told in words and figures: who drives since when, what is wrong, who asked for what."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vla_ros.types import Mode

NUM_FAULTS, NUM_ACTS, NUM_TASKS = 30, 40, 8
MAX_LINE = 400
_NUMBER = re.compile(r"\d+(\.\d+)?")
DISTRIBUTION = re.compile(r"(\w+)_ms_(p50|p99|max|budget)")


@dataclass(frozen=True)
class Fault:
    """Something that is, or was, wrong: from ``since`` to ``until``, s of wall time; None while it lasts."""

    line: str
    since: float
    until: float | None = None


@dataclass(frozen=True)
class Entry:
    """Who asked for something, or answered, when."""

    at: float
    who: str
    text: str


@dataclass
class Board:
    """Written by the threads that hear things, read by the one that tells the page; ``now_s`` is wall time, s.

    ``stages`` has the figures in ms of each stage by ``p50``, ``p99``, ``max`` and ``budget``.
    """

    now_s: Callable[[], float] = time.time
    mode: str = ""
    since: float | None = None
    is_since_known: bool = False
    why: str = ""
    task: str = ""
    jogger: str = ""
    model: str = ""
    is_recorded: bool = False
    has_episode: bool = False
    can_jog: bool = True
    num_viewers: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    _tasks: list[str] = field(default_factory=list)
    _open: dict[str, Fault] = field(default_factory=dict)
    _past: deque[Fault] = field(default_factory=lambda: deque(maxlen=NUM_FAULTS))
    _acts: deque[Entry] = field(default_factory=lambda: deque(maxlen=NUM_ACTS))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set_mode(self, mode: str) -> None:
        """The mode as it was heard just now; since when a first one has been in force nobody knows."""
        if mode != self.mode:
            self.is_since_known, self.mode, self.since = bool(self.mode), mode, self.now_s()

    def set_task(self, task: str) -> None:
        """The instruction in force, the newest of the recent ones."""
        with self._lock:
            self.task = task
            if task:
                self._tasks = [task, *(other for other in self._tasks if other != task)][:NUM_TASKS]

    def set_faults(self, source: str, lines: Mapping[str, str]) -> None:
        """What is wrong now by the word of ``source``, lines by what each is about; what isn't named any more is over.

        A line that differs in its numbers alone is the same fault.
        """
        now = self.now_s()
        named = {f"{source}/{about}/{_NUMBER.sub('#', line)}": line[:MAX_LINE] for about, line in lines.items()}
        with self._lock:
            for key in [key for key in self._open if key.startswith(f"{source}/") and key not in named]:
                ended = self._open.pop(key)
                self._past.append(Fault(ended.line, ended.since, now))
            for key, line in named.items():
                since = self._open[key].since if key in self._open else now
                self._open[key] = Fault(line, since)

    def note(self, who: str, text: str) -> None:
        """For everybody to see: somebody asked for something, or answered."""
        with self._lock:
            self._acts.append(Entry(self.now_s(), who, text[:MAX_LINE]))

    @property
    def driver(self) -> str:
        """Who drives, for people."""
        if self.mode == Mode.POLICY:
            return "the policy"
        if self.mode == Mode.TELEOP:
            return self.jogger or "a human"
        return "nobody"

    def message(self) -> dict[str, Any]:
        """What a page gets."""
        with self._lock:
            newest = sorted([*self._past, *self._open.values()], key=lambda fault: -fault.since)[:NUM_FAULTS]
            return {
                "kind": "board", "mode": self.mode, "since": self.since, "known": self.is_since_known,
                "driver": self.driver, "why": self.why, "task": self.task, "tasks": list(self._tasks),
                "jogger": self.jogger, "model": self.model, "recorded": self.is_recorded, "episode": self.has_episode,
                "can_jog": self.can_jog, "viewers": self.num_viewers, "stages": self.stages, "facts": self.facts,
                "faults": [asdict(fault) for fault in newest], "acts": [asdict(act) for act in reversed(self._acts)],
            }  # fmt: skip


def stages_of(values: Iterable[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """The distributions in a diagnostic status: by stage, ms by ``p50``, ``p99``, ``max`` and ``budget``."""
    stages: dict[str, dict[str, float]] = {}
    for key, value in values:
        if found := DISTRIBUTION.fullmatch(key):
            try:
                stages.setdefault(found[1], {})[found[2]] = float(value)
            except ValueError:
                continue
    return stages
