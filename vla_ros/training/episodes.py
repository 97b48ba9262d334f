"""A recording cut into episodes, and episodes into samples.

With ``episodes: task`` an episode lasts from one instruction to the next other one (or the same one for a new scene of
the demo); an empty instruction ends it. With ``episodes: marker`` it lasts from ``start`` on ``vla_policy/episode`` to
``success``, ``failure`` or ``discard``: discarded ones and those that never end are left out, failed ones as the rule
says. Another instruction in between makes two episodes that end alike.

Every command was given by whoever ``vla_policy/mode`` named last before it. An observation becomes a sample where one
driver gave all commands from its time to the end of its chunk, so nothing is learned as if somebody had done it who
handed over on the way; HOLD and ESTOP teach nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vla_ros import topics
from vla_ros.recordings.events import (
    CommandEvent,
    Event,
    FrameEvent,
    JointsEvent,
    MarkerEvent,
    ModeEvent,
    SceneEvent,
    TaskEvent,
)
from vla_ros.robot import RobotConfig
from vla_ros.training.series import Rows, Series
from vla_ros.transforms.images import resize
from vla_ros.types import Frame, Mode

MAX_COMMAND_GAP_S = 0.5
"""Between two commands further apart nothing is known of what was commanded."""
HELD = frozenset((Mode.HOLD, Mode.ESTOP))
EPISODES = ("task", "marker")


@dataclass(frozen=True)
class FrameRule:
    """How observations and their labels are cut out of a recording; ``image_size`` is (height, width) in pixels.

    ``namespace`` is the one the nodes were recorded in, ``episodes`` one of ``EPISODES``.
    """

    horizon: int
    chunk_dt_s: float
    offset: float
    image_size: tuple[int, int]
    min_gap_s: float = 0.0
    namespace: str = ""
    episodes: str = "task"
    keep_failures: bool = False


@dataclass(frozen=True)
class Sample:
    """An observation at ``stamp_ns``, its label ``actions`` ``[horizon, num_joints]``, and who gave it: empty where the
    recording does not say."""

    stamp_ns: int
    images: np.ndarray
    joint_positions: np.ndarray
    actions: np.ndarray
    driver: str


@dataclass(frozen=True)
class Episode:
    """One episode's samples."""

    task: str
    blocks: Mapping[str, tuple[float, float]]
    samples: list[Sample]


@dataclass
class _Span:
    """What the messages of one episode said."""

    start_ns: int
    task: str
    blocks: Mapping[str, tuple[float, float]]
    commands: dict[str, Series]
    observations: list[tuple[int, np.ndarray]] = field(default_factory=list)
    joints: Series = field(default_factory=Series)


class Gatherer:
    """Puts one new image of each camera together, as often as all cameras have one."""

    def __init__(self, robot: RobotConfig, min_gap_s: float) -> None:
        self._cameras = robot.camera_names
        self._max_skew_ns = robot.max_camera_skew_s * 1e9
        self._min_gap_ns = min_gap_s * 1e9
        self._newest: dict[str, Frame] = {}
        self._last_ns: int | None = None

    def add(self, frame: Frame) -> tuple[Frame, ...] | None:
        """A frame of each camera, when this one completes a set that is near enough in time."""
        self._newest[frame.camera] = frame
        if len(self._newest) < len(self._cameras):
            return None
        frames = tuple(self._newest[name] for name in self._cameras)
        stamp_ns = time_of(frames)
        if max(frame.stamp_ns for frame in frames) - stamp_ns > self._max_skew_ns:
            return None
        self._newest = {}
        if self._last_ns is not None and 0 <= stamp_ns - self._last_ns < self._min_gap_ns:
            return None
        self._last_ns = stamp_ns
        return frames


class EpisodeCutter:
    """Takes a recording's events; ``finish`` gives the episodes, those read before a recording broke off too.

    ``num_left_out`` counts observations by the reason why they are no samples; ``modes`` are those that were named.
    """

    def __init__(self, robot: RobotConfig, rule: FrameRule, report: Callable[[str, str], None]) -> None:
        self._robot, self._rule, self._report = robot, rule, report
        self._gatherer = Gatherer(robot, rule.min_gap_s)
        self._is_running = rule.episodes == "task"
        self._task = self._mode = ""
        self._scene: Mapping[str, tuple[float, float]] = {}
        self._scene_of_task: Mapping[str, tuple[float, float]] = {}
        self._is_new_scene = False
        self._span: _Span | None = None
        self._undecided: list[Episode] = []
        self._episodes: list[Episode] = []
        self.num_left_out: Counter[str] = Counter()
        self.modes: set[str] = set()

    def take(self, event: Event) -> None:
        match event:
            case FrameEvent():
                self._see(event.frame)
            case JointsEvent() if self._span is not None:
                self._span.joints.add(event.stamp_ns, event.sample.positions)
            case CommandEvent() if self._span is not None:
                self._span.commands[event.group].add(event.due_ns, event.trajectory.positions[0], self._mode)
            case ModeEvent():
                self._mode = event.mode.value
                self.modes.add(self._mode)
            case SceneEvent() if event.blocks != self._scene:
                self._scene, self._is_new_scene = event.blocks, True
            case TaskEvent() if event.task != self._task or self._is_new_scene:
                self._task = event.task
                # What an earlier task's scene has become nobody knows.
                self._scene_of_task = self._scene if self._is_new_scene else {}
                self._is_new_scene = False
                self._begin(event.received_ns)
            case MarkerEvent() if self._rule.episodes == "marker":
                self._mark(event)

    def finish(self) -> list[Episode]:
        """The episodes with samples, when the last event has been taken."""
        self._end()
        if self._rule.episodes == "marker":
            self._decide("")
        return [episode for episode in self._episodes if episode.samples]

    def _see(self, frame: Frame) -> None:
        frames = self._gatherer.add(frame)
        if frames is None or self._span is None:
            return
        try:
            images = np.stack([resize(taken.image, *self._rule.image_size) for taken in frames])
        except ValueError as error:
            self._report("image", f"{error}; it is left out")
        else:
            self._span.observations.append((time_of(frames), images))

    def _mark(self, event: MarkerEvent) -> None:
        if event.text != "start" and not self._is_running:
            self._report(
                "marker", f"'{event.text}' on {topics.EPISODE_MARKER}, and no 'start' before it: it is ignored"
            )
            return
        self._end()
        self._decide("" if event.text == "start" else event.text)
        self._is_running = event.text == "start"
        self._begin(event.received_ns)

    def _begin(self, start_ns: int) -> None:
        self._end()
        if self._is_running and self._task:
            commands = {output.name: Series() for output in self._robot.outputs}
            self._span = _Span(start_ns, self._task, self._scene_of_task, commands)

    def _end(self) -> None:
        if self._span is None:
            return
        samples = _samples(self._span, self._robot, self._rule, self.num_left_out)
        ended = Episode(self._span.task, self._span.blocks, samples)
        (self._episodes if self._rule.episodes == "task" else self._undecided).append(ended)
        self._span = None

    def _decide(self, outcome: str) -> None:
        """What becomes of the episodes since ``start``; without an outcome nobody knows what they are worth."""
        if outcome == "success" or (outcome == "failure" and self._rule.keep_failures):
            self._episodes += self._undecided
        else:
            reason = {"failure": "of failed episodes", "discard": "of discarded episodes"}.get(
                outcome, "of episodes without an end"
            )
            self.num_left_out[reason] += sum(len(episode.samples) for episode in self._undecided)
        self._undecided = []


def time_of(frames: Iterable[Frame]) -> int:
    """The time of an observation: the oldest of its frames."""
    return min(frame.stamp_ns for frame in frames)


def _samples(span: _Span, robot: RobotConfig, rule: FrameRule, num_left_out: Counter[str]) -> list[Sample]:
    """The observations of ``span`` whose whole chunk one driver commanded; the others are counted."""
    joints = Rows(span.joints, robot.joint_states.max_age_s)
    commands = {name: Rows(series, MAX_COMMAND_GAP_S) for name, series in span.commands.items()}
    due_ns = np.round((np.arange(rule.horizon) + rule.offset) * rule.chunk_dt_s * 1e9).astype(np.int64)
    samples = []
    for stamp_ns, images in span.observations:
        measured = joints.at(np.array([stamp_ns]))
        wanted = {name: series.at(stamp_ns + due_ns) for name, series in commands.items()}
        if stamp_ns < span.start_ns:
            num_left_out["from before their episode"] += 1
        elif measured is None:
            num_left_out["without joint states around them"] += 1
        elif any(rows is None for rows in wanted.values()):
            num_left_out["without commands to the end of their chunk"] += 1
        else:
            drivers = set().union(*(series.drivers(stamp_ns, stamp_ns + due_ns) for series in commands.values()))
            if drivers <= HELD:
                num_left_out["in HOLD or ESTOP"] += 1
            elif len(drivers) > 1:
                num_left_out["whose chunk another driver goes on with"] += 1
            else:
                actions = np.empty((rule.horizon, robot.num_joints))
                for output in robot.outputs:
                    actions[:, [robot.joint_names.index(name) for name in output.joints]] = wanted[output.name]
                samples.append(Sample(stamp_ns, images, measured[0], actions, drivers.pop()))
    return samples
