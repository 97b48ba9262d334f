"""What a recording says of a robot, event by event: figures that don't grow with its length, and no pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vla_ros.recordings.events import BagEvent, Command, Marker, Task
from vla_ros.recordings.plausible import Bounds, plausible_bounds
from vla_ros.robot import RobotConfig
from vla_ros.training.episodes import EpisodeCutter, FrameRule
from vla_ros.types import Frame, JointSample
from vla_ros.units import NS_PER_S

BLANK = np.zeros((1, 1, 3), np.uint8)


@dataclass
class Pace:
    """The stamps of one stream. A step longer than ``max_gap_s`` is a gap, and no part of its rate."""

    max_gap_s: float
    num: int = 0
    num_steps: int = 0
    steps_ns: int = 0
    num_gaps: int = 0
    longest_ns: int = 0
    num_back: int = 0
    num_same: int = 0
    delay_ns: int = 0
    _last_ns: int | None = None

    def add(self, stamp_ns: int, received_ns: int) -> None:
        last_ns, self._last_ns = self._last_ns, stamp_ns
        self.num += 1
        self.delay_ns += received_ns - stamp_ns
        if last_ns is None:
            return
        step_ns = stamp_ns - last_ns
        self.num_back += step_ns < 0
        self.num_same += step_ns == 0
        self.longest_ns = max(self.longest_ns, step_ns)
        if step_ns > self.max_gap_s * NS_PER_S:
            self.num_gaps += 1
        elif step_ns > 0:
            self.num_steps += 1
            self.steps_ns += step_ns

    def pause(self) -> None:
        """What comes next is of another time."""
        self._last_ns = None

    @classmethod
    def merged(cls, paces: Sequence[Pace]) -> Pace:
        """Those of several recordings as one."""
        counts = ("num", "num_steps", "steps_ns", "num_gaps", "num_back", "num_same", "delay_ns")
        total = {name: sum(getattr(pace, name) for pace in paces) for name in counts}
        return cls(max(pace.max_gap_s for pace in paces), longest_ns=max(pace.longest_ns for pace in paces), **total)

    @property
    def rate_hz(self) -> float:
        """Between gaps; 0 for fewer than two."""
        return self.num_steps * NS_PER_S / self.steps_ns if self.steps_ns else 0.0

    @property
    def delay_s(self) -> float:
        """From a stamp to its arrival, on average."""
        return self.delay_ns / NS_PER_S / max(self.num, 1)


class Travel:
    """Where each joint was, ``lowest`` and ``highest`` ``[num_joints]``, infinite where there is none, and how many of
    ``num`` positions were beyond ``bounds``, on each side."""

    def __init__(self, bounds: Bounds) -> None:
        num_joints = len(bounds.lowest)
        self._bounds = bounds
        self.lowest, self.highest = np.full(num_joints, np.inf), np.full(num_joints, -np.inf)
        self.num, self.num_below, self.num_above = np.zeros((3, num_joints), np.int64)

    def add(self, positions: np.ndarray) -> None:
        """``[num_joints]``, NaN for a joint that isn't named."""
        self.lowest, self.highest = np.fmin(self.lowest, positions), np.fmax(self.highest, positions)
        self.num += np.isfinite(positions)
        self.num_below += positions < self._bounds.lowest
        self.num_above += positions > self._bounds.highest


class Pairs:
    """Each joint's commands beside what was measured then: how far apart, and whether they go together."""

    def __init__(self, num_joints: int) -> None:
        self._num, self._apart = np.zeros((2, num_joints))
        self._sums = np.zeros((5, num_joints))

    def add(self, commanded: np.ndarray, measured: np.ndarray) -> None:
        """``[num_joints]`` each, NaN where nothing is known."""
        known = np.isfinite(commanded) & np.isfinite(measured)
        x, y = np.where(known, commanded, 0.0), np.where(known, measured, 0.0)
        self._num += known
        self._apart += np.abs(x - y)
        self._sums += x, y, x * x, y * y, x * y

    @property
    def apart(self) -> np.ndarray:
        """On average, ``[num_joints]``, rad or m."""
        return self._apart / np.maximum(self._num, 1)

    @property
    def correlation(self) -> np.ndarray:
        """From -1 to 1, ``[num_joints]``; 0 where one of the two doesn't move."""
        x, y, xx, yy, xy = self._sums / np.maximum(self._num, 1)
        spread = np.maximum(xx - x * x, 0.0) * np.maximum(yy - y * y, 0.0)
        return np.divide(xy - x * y, np.sqrt(spread), out=np.zeros_like(x), where=spread > 1e-16)


@dataclass
class RecordingSeen:
    """One bag, or one LeRobot data set of ``fps`` rows a second; ``size`` says how large that is.

    ``joints``, ``cameras`` and ``commands`` are the paces of what came, ``cameras`` and ``commands`` by name;
    ``still_s`` is how long each camera showed the very same pixels, at most. ``num_left_out`` is as training counts it.
    ``refusal`` is why nothing of it can be used, ``faults`` what training refuses, ``problems`` what it reports,
    ``notes`` what is no problem: a line each.
    """

    name: str
    measured: Travel
    commanded: Travel
    pairs: Pairs
    joints: Pace
    cameras: dict[str, Pace]
    commands: dict[str, Pace]
    fps: float | None = None
    size: str = ""
    seconds: float = 0.0
    still_s: dict[str, float] = field(default_factory=dict)
    num_samples: list[int] = field(default_factory=list)
    num_left_out: Counter[str] = field(default_factory=Counter)
    drivers: Counter[str] = field(default_factory=Counter)
    num_interventions: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refusal: str = ""
    faults: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, robot: RobotConfig, fps: float | None = None) -> RecordingSeen:
        """Before anything has come."""
        bounds = plausible_bounds(robot)
        period_s = 0.0 if fps is None else 1.5 / fps
        joints_s = max(period_s, *(source.max_age_s for source in robot.joint_sources))
        return cls(
            name,
            Travel(bounds),
            Travel(bounds),
            Pairs(robot.num_joints),
            Pace(joints_s),
            {camera.name: Pace(max(period_s, camera.max_age_s)) for camera in robot.cameras},
            {output.name: Pace(max(period_s, 0.5)) for output in robot.outputs},
            fps=fps,
        )


class Watch:
    """Takes the events of a recording into ``seen``, and has training's own rule cut samples out of them.

    ``sees_pixels``: frames have their contents, which are compared; nothing is decoded.
    """

    def __init__(self, robot: RobotConfig, rule: FrameRule, seen: RecordingSeen, sees_pixels: bool) -> None:
        self.seen, self._robot, self._rule, self._sees_pixels = seen, robot, rule, sees_pixels
        self._columns = {output.name: robot.columns(output.joints) for output in robot.outputs}
        self._reported: dict[str, str] = {}
        self._begin()

    @property
    def problems(self) -> tuple[str, ...]:
        """What the rule reported."""
        return tuple(self._reported.values())

    def pause(self) -> None:
        """What comes next is an episode of its own, or there is nothing more: all so far is counted."""
        self._count()
        self._begin()

    def _begin(self) -> None:
        self._cutter = EpisodeCutter(self._robot, self._rule, self._report)
        self._first_ns: int | None = None
        self._last_ns, self._task = 0, ""
        self._measured = np.full(self._robot.num_joints, np.nan)
        self._contents: dict[str, Frame] = {}
        for pace in (self.seen.joints, *self.seen.cameras.values(), *self.seen.commands.values()):
            pace.pause()

    def take(self, event: BagEvent) -> None:
        now_ns, seen = event.received_ns, self.seen
        self._first_ns = now_ns if self._first_ns is None else self._first_ns
        self._last_ns = now_ns
        match event.said:
            case Frame() as frame:
                seen.cameras[frame.camera].add(frame.header_ns, now_ns)
                self._look(frame)
                event = replace(event, said=replace(frame, decode=lambda: BLANK))
            case JointSample() as sample:
                seen.joints.add(sample.stamp_ns, now_ns)
                seen.measured.add(sample.positions)
                self._measured = np.where(np.isnan(sample.positions), self._measured, sample.positions)
            case Command(group, _, trajectory):
                commanded = np.full(self._robot.num_joints, np.nan)
                commanded[self._columns[group]] = trajectory.positions[0]
                seen.commands[group].add(now_ns, now_ns)
                seen.commanded.add(commanded)
                seen.pairs.add(commanded, self._measured)
            case Task(text) if text and text != self._task:
                self._task = text
                seen.tasks[text] += 1
            case Marker(text) if text != "start":
                seen.outcomes[text] += 1
        self._cutter.take(event)

    def _report(self, kind: str, line: str) -> None:
        self._reported.setdefault(kind, line)

    def _look(self, frame: Frame) -> None:
        """Since when a camera shows these very pixels."""
        since = self._contents.get(frame.camera)
        if not self._sees_pixels or since is None or not np.array_equal(since.content, frame.content):
            self._contents[frame.camera] = frame
        else:
            still_s = (frame.stamp_ns - since.stamp_ns) / NS_PER_S
            self.seen.still_s[frame.camera] = max(self.seen.still_s.get(frame.camera, 0.0), still_s)

    def _count(self) -> None:
        seen = self.seen
        if self._first_ns is not None:
            seen.seconds += (self._last_ns - self._first_ns) / NS_PER_S
        for episode in self._cutter.episodes():
            seen.num_samples.append(len(episode.samples))
            seen.drivers.update(sample.driver for sample in episode.samples)
            seen.num_interventions += sum(sample.is_intervention for sample in episode.samples)
        seen.num_left_out += self._cutter.num_left_out
