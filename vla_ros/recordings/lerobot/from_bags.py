"""Bags as a LeRobot data set: a row for each observation that the live node would make, streamed.

Pictures are packed as they come; of an episode only its numbers wait for its end. A row's action is the command in
force at its time: between two commands by interpolation, and the last one where none follows, as a controller holds it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.bags.read import BagReader
from vla_ros.observing.observe import Match, Observer
from vla_ros.recordings.events import BagEvent, Command, Marker, Scene, Task
from vla_ros.recordings.feed import LEARNED, Feed, observe_event
from vla_ros.recordings.lerobot.write import EpisodeRows, EpisodeWriter, SetLayout, SetWriter
from vla_ros.recordings.series import GrowingSeries
from vla_ros.robot import RobotConfig
from vla_ros.spaces.space import Space
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

NUM_MEASURED = 200
"""So many rows say how many a second has."""
NEARLY = 0.02
"""A rate this near to a whole number is that number."""
OFF_RATE = 0.05
LATE_PERIODS = 1.5
NO_COMMAND = "before the first command of their episode"


@dataclass(frozen=True)
class SetRule:
    """``episodes`` is ``task`` or ``marker``, as in training; ``state`` and ``action`` are the spaces of the set's
    numbers, ``declared`` what they were parsed of, for its reader; ``fps`` of rows, ``codec`` of videos."""

    episodes: str
    state: Space
    action: Space
    declared: Mapping[str, Any]
    fps: float
    codec: str = "av1"
    namespace: str = ""


@dataclass(frozen=True)
class _Row:
    """What is kept of an observation: ``taken_ns`` of its pictures."""

    stamp_ns: int
    taken_ns: Sequence[int]
    joint_positions: np.ndarray
    task: str


@dataclass
class _Draft:
    """An episode that isn't over. ``writer`` is None where the set has it already."""

    number: int
    start_ns: int
    writer: EpisodeWriter | None
    commands: dict[str, GrowingSeries]
    drivers: dict[str, list[str]]
    rows: list[_Row] = field(default_factory=list)

    def has_command(self, stamp_ns: int) -> bool:
        """Whether each output had one by then."""
        return all(series.first_ns is not None and series.first_ns <= stamp_ns for series in self.commands.values())


class SetMaker:
    """Puts bags into the set in ``folder``, one after the other: what is in it already stays, so one that was stopped
    goes on. ``num_left_out`` counts frames by the reason. ``report`` gets a kind and a line for what is worth one."""

    def __init__(
        self,
        bags: Sequence[Path],
        folder: Path,
        robot: RobotConfig,
        rule: SetRule,
        report: Callable[[str, str], object],
    ) -> None:
        self._robot, self._rule, self._report = robot, rule, report
        self._sources = source_names(bags)
        self._bags = bags
        notes = {"bags": list(self._sources), "episodes": rule.episodes, "robot": robot.name, **rule.declared}
        layout = SetLayout(
            robot_name=robot.name,
            fps=rule.fps,
            state_names=_names(rule.state),
            action_names=_names(rule.action),
            cameras={camera.name: (camera.height, camera.width) for camera in robot.cameras},
            codec=rule.codec,
            notes=notes,
        )
        self.writer = SetWriter(folder, layout)
        self.num_left_out: Counter[str] = Counter()

    def run(self) -> Iterator[str]:
        """Do it; yields the bag's name for each row. Raises ValueError where the set can't be written."""
        there = {source for source, _ in self.writer.sources}
        done = max((number for number, name in enumerate(self._sources) if name in there), default=0)
        for bag, source in list(zip(self._bags, self._sources, strict=True))[done:]:
            try:
                feed = Feed(BagReader(bag), self._robot, self._rule.namespace, LEARNED)
            except ValueError as error:
                self._report(source, str(error))
                continue
            cutter = _Cutter(self._robot, self._rule, self.writer, source, feed.report)
            yield from (source for event in _up_to_damage(feed, self._report) if cutter.take(event))
            cutter.finish()
            self.num_left_out += cutter.num_left_out
            for line in feed.problems:
                self._report(line, line)
        self.writer.finish()


def _up_to_damage(feed: Feed, report: Callable[[str, str], object]) -> Iterator[BagEvent]:
    events = iter(feed)
    while True:
        try:
            event = next(events, None)
        except ValueError as error:  # nothing of it can be read
            report(str(error), str(error))
            return
        if event is None:
            return
        yield event


class _Cutter:
    """Takes a bag's events and gives the set its episodes."""

    def __init__(
        self, robot: RobotConfig, rule: SetRule, writer: SetWriter, source: str, report: Callable[[str, str], object]
    ) -> None:
        self._robot, self._rule, self._writer, self._source, self._report = robot, rule, writer, source, report
        self._observer = Observer(robot)
        self._draft: _Draft | None = None
        self._num_episodes = 0
        self._task, self._mode = "", ""
        self._modes: set[str] = set()
        self._scene: Mapping[str, Any] = {}
        self._is_new_scene = False
        self.num_left_out: Counter[str] = Counter()

    def take(self, event: BagEvent) -> bool:
        """Returns whether there is another row."""
        found = observe_event(self._observer, event)
        match event.said:
            case Command(group, due_ns, trajectory) if self._draft is not None:
                if self._draft.commands[group].add(due_ns, trajectory.positions[0]):
                    self._draft.drivers[group].append(self._mode)
            case Mode() as mode:
                self._mode = mode.value
                self._modes.add(self._mode)
            case Scene(places) if places != self._scene:
                self._scene, self._is_new_scene = places, True
            case Task(text):
                self._hear(text, event.received_ns)
            case Marker(text) if self._rule.episodes == "marker":
                self._mark(text, event.received_ns)
        return found is not None and self._see(found)

    def finish(self) -> None:
        """The bag is over."""
        self.num_left_out += self._observer.num_missed
        self._end("" if self._rule.episodes == "task" else None)

    def _hear(self, task: str, now_ns: int) -> None:
        is_other = task != self._task or self._is_new_scene
        self._task, self._is_new_scene = task, False
        if is_other and self._rule.episodes == "task":
            self._end("")
            if task:
                self._begin(now_ns)

    def _mark(self, text: str, now_ns: int) -> None:
        self._end(text if text in ("success", "failure") else None)
        if text == "start":
            self._begin(now_ns)

    def _begin(self, now_ns: int) -> None:
        is_there = (self._source, self._num_episodes) in self._writer.sources
        commands = {output.name: GrowingSeries(len(output.joints)) for output in self._robot.outputs}
        writer = None if is_there else self._writer.begin()
        self._draft = _Draft(self._num_episodes, now_ns, writer, commands, {name: [] for name in commands})
        self._num_episodes += 1

    def _see(self, found: Match) -> bool:
        draft = self._draft
        if draft is None or not found.task or found.stamp_ns < draft.start_ns:
            self.num_left_out["outside an episode"] += 1
        elif not draft.has_command(found.stamp_ns):
            self.num_left_out[NO_COMMAND] += 1
        elif draft.writer is not None:
            try:
                images = {name: frame.image for name, frame in found.frames.items()}
            except ValueError as error:
                self._report("image", f"{error}; it is left out")
                return False
            draft.writer.add(images)
            taken_ns = [frame.stamp_ns for frame in found.frames.values()]
            draft.rows.append(_Row(found.stamp_ns, taken_ns, found.joint_positions, found.task))
            return True
        return False

    def _end(self, outcome: str | None) -> None:
        """The episode is over; None: nothing becomes of it."""
        draft, self._draft = self._draft, None
        if draft is None or draft.writer is None:
            return
        if outcome is None or not draft.rows:
            draft.writer.drop()
            self.num_left_out["of episodes that were discarded or never ended"] += len(draft.rows)
            return
        rows = self._rows(draft)
        self._check_rate(rows.stamps_ns[:, 0])
        self._writer.add(draft.writer, rows, outcome, self._source, draft.number)

    def _rows(self, draft: _Draft) -> EpisodeRows:
        rule, robot = self._rule, self._robot
        times_ns = np.array([row.stamp_ns for row in draft.rows], np.int64)
        positions = np.stack([row.joint_positions for row in draft.rows])
        targets = positions.copy()  # of a fixed joint, which nobody commands
        for output in robot.outputs:
            columns = robot.columns(output.joints)
            series = draft.commands[output.name].series()
            given = np.searchsorted(series.times_ns, times_ns, "right") - 1
            known = series.at(times_ns, turns=robot.turns[columns])
            targets[:, columns] = np.where(np.isfinite(known), known, series.values[given])
            drivers = [draft.drivers[output.name][command] for command in given]
        taken_ns = np.array([row.taken_ns for row in draft.rows], np.int64)
        was_policy = Mode.POLICY in self._modes
        return EpisodeRows(
            states=rule.state.encode(positions[:, None], positions)[:, 0],
            actions=rule.action.encode(targets[:, None], positions)[:, 0],
            tasks=[row.task for row in draft.rows],
            drivers=drivers,
            interventions=[was_policy and driver == Mode.TELEOP for driver in drivers],
            stamps_ns=np.concatenate([times_ns[:, None], taken_ns], axis=1),
        )

    def _check_rate(self, times_ns: np.ndarray) -> None:
        """LeRobot takes rows for a period apart, whenever they were."""
        periods = np.diff(times_ns) * self._rule.fps / NS_PER_S
        late = int((periods > LATE_PERIODS).sum())
        if late:
            got = f"{late} of {len(times_ns)} rows come more than {LATE_PERIODS:g} periods after the one before"
            self._report("late rows", f"{got}; LeRobot takes them for one period apart")
        if len(periods) and abs(np.median(periods) - 1) > OFF_RATE:
            got = f"rows come at {self._rule.fps / np.median(periods):.2f} Hz, the set has {self._rule.fps:g}"
            self._report("rate", f"{got}; give --fps, or make a set of its own of what has another rate")


def measure_fps(bag: Path, robot: RobotConfig, namespace: str = "") -> float:
    """How many observations a second of ``bag`` has, by its first ones. Raises ValueError where there are too few."""
    observer = Observer(robot)
    stamps_ns: list[int] = []
    for event in Feed(BagReader(bag), robot, namespace, ()):
        found = observe_event(observer, event)
        if found is not None:
            stamps_ns.append(found.stamp_ns)
        if len(stamps_ns) == NUM_MEASURED:
            break
    if len(stamps_ns) < 2:
        raise ValueError(f"bag {bag}: {len(stamps_ns)} observations; expected at least 2 to see their rate: give --fps")
    rate = NS_PER_S / float(np.median(np.diff(stamps_ns)))
    return float(round(rate)) if abs(rate - round(rate)) < NEARLY * rate else round(rate, 3)


def source_names(bags: Sequence[Path]) -> tuple[str, ...]:
    """What each bag is called in a set: its place among the others."""
    root = os.path.commonpath([bag.parent for bag in bags])
    return tuple(os.path.relpath(bag, root) for bag in bags)


def _names(space: Space) -> tuple[str, ...]:
    """Of each number, as LeRobot calls a joint's; of others by what they are part of."""
    names: list[str] = []
    for part in space.components:
        own = part.joint_names
        kind = type(part).__name__.lower()
        names += [f"{name}.pos" for name in own] if len(own) == part.size else [f"{kind}_{i}" for i in range(part.size)]
    return tuple(names)
