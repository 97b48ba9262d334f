"""A recording cut into episodes, and episodes into samples.

With ``episodes: task`` an episode lasts from one instruction to the next other one (or the same one for a new scene of
the demo); an empty instruction ends it. With ``episodes: marker`` it lasts from ``start`` on ``vla_policy/episode`` to
``success``, ``failure`` or ``discard``: discarded ones and those that never end are left out, failed ones as the rule
says. Another instruction in between makes two episodes that end alike.

What was commanded last counts to the end of an episode: a chunk that reaches beyond goes on with it, and only its first
``num_known`` actions, up to that command, are learned.

Every command was given by whoever ``vla_policy/mode`` named last before it. An observation becomes a sample where one
driver gave all commands from its time to the end of its chunk, so nothing is learned as if somebody had done it who
handed over on the way; HOLD and ESTOP teach nothing. A sample is the policy's own, an intervention (a human's in a
recording in which the policy drove, too), or else a demonstration: ``LearnFrom`` says what each is worth.

What a policy that says words is to learn of an observation is what ``vla_policy/generation`` said last before it, since
the last observation of the episode before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vla_ros import topics
from vla_ros.observing.observe import Match, Observer
from vla_ros.recordings.events import BagEvent, Command, Generation, Marker, Scene, Task
from vla_ros.recordings.feed import observe_event
from vla_ros.recordings.series import MAX_GAP_S, GrowingSeries, TimeSeries
from vla_ros.robot import RobotConfig
from vla_ros.transforms.sample import TextTarget
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

HELD = frozenset((Mode.HOLD, Mode.ESTOP))
EPISODES = ("task", "marker")
# What they are worth is not known.
UNENDED = "of episodes without an end"


@dataclass(frozen=True)
class LearnFrom:
    """How often a sample is drawn, by who drove; one that weighs 0 is left out."""

    demonstration: float = 1.0
    intervention: float = 2.0
    policy: float = 0.0

    def __post_init__(self) -> None:
        for kind, weight in vars(self).items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"learn_from.{kind} is {weight:g}; expected a finite number of at least 0")
        if not any(vars(self).values()):
            raise ValueError(f"learn_from is 0 for {', '.join(vars(self))}; expected a weight above 0 for one of them")

    def weight(self, sample: Sample) -> float:
        """Of a sample against a demonstration of weight 1."""
        return float(getattr(self, sample.kind))


@dataclass(frozen=True)
class FrameRule:
    """How observations and their labels are cut out of a recording; ``resize`` is what the policy's processor does to
    their images before they are kept.

    ``namespace`` is the one the nodes were recorded in, ``episodes`` one of ``EPISODES``. What the policy commanded in
    the last ``before_takeover_s`` before a human took over is not learned. Between commands further apart than
    ``max_gap_s`` nothing is known.
    """

    horizon: int
    chunk_dt_s: float
    offset: float
    resize: Callable[[np.ndarray], np.ndarray]
    min_gap_s: float = 0.0
    namespace: str = ""
    episodes: str = "task"
    keep_failures: bool = False
    learn_from: LearnFrom = LearnFrom()
    before_takeover_s: float = 1.0
    max_gap_s: float = MAX_GAP_S


@dataclass(frozen=True)
class Sample:
    """An observation at ``stamp_ns``, of pictures that its recording has at ``places``, int64 ``[num_cameras, 3]``.

    When its recording has ended it has a label, ``actions`` ``[horizon, num_joints]``, the first ``num_known`` of which
    lie within its episode, and a ``driver`` who gave it, empty where the recording does not say. ``text`` is what is to
    be said of it, if anything.
    """

    stamp_ns: int
    places: np.ndarray
    joint_positions: np.ndarray
    actions: np.ndarray | None = None
    num_known: int = 0
    driver: str = ""
    is_intervention: bool = False
    text: TextTarget = TextTarget()

    @property
    def kind(self) -> str:
        """One of the fields of ``LearnFrom``; whoever isn't known to be the policy demonstrates."""
        if self.driver == Mode.POLICY:
            return "policy"
        return "intervention" if self.is_intervention else "demonstration"


@dataclass(frozen=True)
class Episode:
    """One episode's samples; ``scene`` says where things were when it began, m, by name; empty: not known."""

    task: str
    scene: Mapping[str, tuple[float, float]]
    samples: list[Sample]


@dataclass
class _Span:
    """What the messages of one episode said: observations, and of each output the commands and who gave each.

    ``left_out`` says why nothing is learned of it, empty where that isn't so. ``lost_ns`` are the times at which the
    policy drove no more and a human was the next who did.
    """

    start_ns: int
    task: str
    scene: Mapping[str, tuple[float, float]]
    commands: dict[str, GrowingSeries]
    drivers: dict[str, list[str]]
    left_out: str
    lost_ns: list[int] = field(default_factory=list)
    observations: list[Sample] = field(default_factory=list)

    def leads_to_takeover(self, start_ns: int, end_ns: int, before_s: float) -> bool:
        """Whether something between the two times was the last ``before_s`` before a human took over."""
        return any(start_ns <= lost_ns < end_ns + before_s * NS_PER_S for lost_ns in self.lost_ns)


class EpisodeCutter:
    """Takes a recording's events; ``finish`` gives the episodes, those read before a recording broke off too.

    ``num_left_out`` counts images by the reason why there is no observation, and observations by the reason why they
    are no samples.
    """

    def __init__(self, robot: RobotConfig, rule: FrameRule, report: Callable[[str, str], None]) -> None:
        self._robot, self._rule, self._report = robot, rule, report
        self._observer = Observer(robot)
        self._last_ns: int | None = None
        self._is_running = rule.episodes == "task"
        self._task = self._mode = ""
        self._scene: Mapping[str, tuple[float, float]] = {}
        self._scene_of_task: Mapping[str, tuple[float, float]] = {}
        self._is_new_scene = False
        self._text = self._text_before = TextTarget()
        self._said_ns, self._is_new_text = 0, False
        self._span: _Span | None = None
        self._spans: list[_Span] = []
        self._marked: list[_Span] = []
        self._modes: set[str] = set()
        self._policy_left_ns: int | None = None
        self.num_left_out: Counter[str] = Counter()

    def take(self, event: BagEvent) -> None:
        found = observe_event(self._observer, event)
        if found is not None:
            self._see(found)
        match event.said:
            case Command(group, due_ns, trajectory) if self._span is not None:
                if self._span.commands[group].add(due_ns, trajectory.positions[0]):
                    self._span.drivers[group].append(self._mode)
            case Mode() as mode:
                self._change_driver(mode, event.received_ns)
            case Scene(places) if places != self._scene:
                self._scene, self._is_new_scene = places, True
            case Generation(prompt, answer):
                self._text_before, self._text = self._text, TextTarget(prompt, answer)
                self._said_ns, self._is_new_text = event.received_ns, True
            case Task(text) if text != self._task or self._is_new_scene:
                self._task = text
                # What has become of an earlier task's scene is not known.
                self._scene_of_task = self._scene if self._is_new_scene else {}
                self._is_new_scene = False
                self._begin(event.received_ns)
            case Marker(text) if self._rule.episodes == "marker":
                self._mark(text, event.received_ns)
            case Marker("failure" | "discard" as text):
                unheard = f"'{text}' on {topics.EPISODE_MARKER} leaves nothing out where episodes is 'task'"
                self._report("marker", f"{unheard}; train with episodes=marker")

    def finish(self) -> list[Episode]:
        """The episodes with samples, when the last event has been taken."""
        return list(self.episodes())

    def episodes(self) -> Iterator[Episode]:
        """As ``finish``, for who looks at one after the other."""
        self.num_left_out += self._observer.num_missed
        episodes = (Episode(span.task, span.scene, list(self._samples(span))) for span in self._spans)
        return (episode for episode in episodes if episode.samples)

    def _change_driver(self, mode: Mode, now_ns: int) -> None:
        """Between the policy and the human who takes over there may be HOLD or ESTOP."""
        if self._mode == Mode.POLICY != mode:
            self._policy_left_ns = now_ns
        if mode not in HELD:
            if mode is Mode.TELEOP and self._policy_left_ns is not None and self._span is not None:
                self._span.lost_ns.append(self._policy_left_ns)
            self._policy_left_ns = None
        self._mode = mode.value
        self._modes.add(self._mode)

    def _see(self, found: Match) -> None:
        if self._span is None:
            self.num_left_out["outside an episode"] += 1
        elif self._last_ns is not None and found.stamp_ns - self._last_ns < self._rule.min_gap_s * NS_PER_S:
            self.num_left_out["within min_frame_gap_s of the one before"] += 1
        else:
            self._last_ns = found.stamp_ns
            places = np.array([frame.place for frame in found.frames.values()], np.int64).reshape(-1, 3)
            is_later = self._said_ns > found.stamp_ns  # an observation is known a while after its time
            text = self._text_before if is_later else self._text
            self._span.observations.append(Sample(found.stamp_ns, places, found.joint_positions, text=text))
            self._is_new_text = self._is_new_text and is_later

    def _mark(self, text: str, now_ns: int) -> None:
        if text != "start" and not self._is_running:
            self._report("marker", f"'{text}' on {topics.EPISODE_MARKER}, and no 'start' before it: it is ignored")
            return
        failed = "" if self._rule.keep_failures else "of failed episodes"
        outcomes = {"success": "", "failure": failed, "discard": "of discarded episodes"}
        for span in self._marked:
            span.left_out = outcomes.get(text, UNENDED)
        self._marked = []
        self._is_running = text == "start"
        self._begin(now_ns)

    def _begin(self, start_ns: int) -> None:
        self._span = self._policy_left_ns = None
        self._text_before = TextTarget()  # what was said of an earlier episode isn't true of this one
        if not self._is_new_text:
            self._text = TextTarget()
        if self._is_running and self._task:
            commands = {output.name: GrowingSeries(len(output.joints)) for output in self._robot.outputs}
            drivers: dict[str, list[str]] = {name: [] for name in commands}
            left_out = UNENDED if self._rule.episodes == "marker" else ""
            self._span = _Span(start_ns, self._task, self._scene_of_task, commands, drivers, left_out)
            self._spans.append(self._span)
            self._marked.append(self._span)

    def _samples(self, span: _Span) -> Iterator[Sample]:
        """The observations of ``span`` that become samples; the others are counted."""
        series = {name: commands.series() for name, commands in span.commands.items()}
        for seen in span.observations:
            sample = self._label(seen, span, series)
            if isinstance(sample, Sample):
                yield sample
            else:
                self.num_left_out[sample] += 1

    def _label(self, seen: Sample, span: _Span, series: Mapping[str, TimeSeries]) -> Sample | str:
        """An observation whose whole chunk one driver commanded as a sample, or the reason why it is none."""
        rule, robot = self._rule, self._robot
        due_s = (np.arange(rule.horizon) + rule.offset) * rule.chunk_dt_s
        dues_ns = seen.stamp_ns + np.round(due_s * NS_PER_S).astype(np.int64)
        end_ns = _end_ns(series.values(), rule.max_gap_s)
        num_known = int((dues_ns <= end_ns).sum())
        actions = np.tile(seen.joint_positions, (rule.horizon, 1))  # of a fixed joint, which nobody commands
        for output in robot.outputs:
            columns = robot.columns(output.joints)
            due_by_ns = np.minimum(dues_ns, end_ns)
            actions[:, columns] = series[output.name].at(due_by_ns, rule.max_gap_s, robot.turns[columns])
        if seen.stamp_ns < span.start_ns:
            return "from before their episode"
        if not np.isfinite(actions).all():
            return "without commands throughout their chunk"
        if not num_known:
            return "from after the last command of their episode"
        drivers = set().union(*(_drivers(series[name].times_ns, span.drivers[name], seen, dues_ns) for name in series))
        if drivers <= HELD:
            return "in HOLD or ESTOP"
        if len(drivers) > 1:
            return "whose chunk another driver goes on with"
        if span.left_out:
            return span.left_out
        driver = drivers.pop()
        if self._modes and not driver:
            return f"from before the first {topics.MODE}"
        is_intervention = driver == Mode.TELEOP and Mode.POLICY in self._modes
        sample = replace(seen, actions=actions, num_known=num_known, driver=driver, is_intervention=is_intervention)
        if not rule.learn_from.weight(sample):
            return f"of which learn_from.{sample.kind} is 0"
        if driver == Mode.POLICY and span.leads_to_takeover(seen.stamp_ns, dues_ns[-1], rule.before_takeover_s):
            return "of the policy within before_takeover_s of a takeover"
        return sample


def _end_ns(series: Iterable[TimeSeries], max_gap_s: float) -> int:
    """When the last command of an episode was due. Where one output fell silent long before another, that of the
    latest: what the silent one was to do since then isn't known."""
    lasts_ns = [int(commands.times_ns[-1]) if len(commands) else 0 for commands in series]
    return min(lasts_ns) if max(lasts_ns) - min(lasts_ns) <= max_gap_s * NS_PER_S else max(lasts_ns)


def _drivers(times_ns: np.ndarray, drivers: list[str], seen: Sample, dues_ns: np.ndarray) -> set[str]:
    """Who gave the commands from an observation on and those around ``dues_ns``."""
    before = np.searchsorted(times_ns, dues_ns[0], "right") - 1
    first = min(before, np.searchsorted(times_ns, seen.stamp_ns, "left"))
    return set(drivers[first : np.searchsorted(times_ns, dues_ns[-1], "left") + 1])
