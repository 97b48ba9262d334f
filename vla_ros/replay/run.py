"""One bag through the whole node: its sensors into the control loop, its instructions, humans and drivers as recorded,
and the policy's chunks out of the very processor and model that drive the robot. Time is the bag's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vla_ros import topics
from vla_ros.bags.read import BagReader
from vla_ros.messages.trace import Trace
from vla_ros.observing.observe import match_policy
from vla_ros.recordings.events import BagEvent, Chunk, Command, Task, Teleop
from vla_ros.recordings.feed import Feed, max_pause_s, resolve_topic
from vla_ros.recordings.series import GrowingSeries
from vla_ros.replay.baseline.fingerprint import fingerprint
from vla_ros.replay.episodes import EpisodeFeed, EpisodePath
from vla_ros.replay.offline import OfflineNodes, ReplayPolicy
from vla_ros.replay.recorded import CommandRate, KeptFrames, Recording
from vla_ros.replay.records import IncidentLog, Replay, ReplayedChunk
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.runtime.teleop import TeleopSettings, TeleopTrajectory
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Answer, Frame, JointSample, Mode
from vla_ros.units import NS_PER_MS, NS_PER_S

AS_RECORDED = "as recorded"
MODE, CHUNK, TRACE = topics.MODE.name, topics.CHUNK.name, topics.TRACE.name
Progress = Callable[[float, float | None], None]
"""Gets how far a bag has been replayed and how long it is, in s (None where it does not say)."""


class UnusableBag(ValueError):
    """A bag of which nothing can be replayed; others may be usable."""


@dataclass(frozen=True)
class Plan:
    """What of a bag is followed; ``says_driver``: it has ``vla_policy/mode``.

    An answer takes ``latency_ms``, ``is_assumed`` where neither the bag nor the user says it. None: it comes when the
    recorded policy's came, and is, where ``is_traced``, about the very observation that one was asked about. Commands
    of a bag that ``has_ticks`` were sent by a control loop; those of a data set are its rows.
    """

    says_driver: bool
    latency_ms: float | None = None
    is_assumed: bool = False
    is_traced: bool = False
    has_ticks: bool = True


def replay_bag(
    path: Path, robot: RobotConfig, policy: ReplayPolicy, settings: ReplaySettings, progress: Progress | None = None
) -> Replay:
    """One bag through the whole node.

    Raises UnusableBag where nothing of it can be used, and ValueError where the robot is not the policy's or the
    recorded latency is wanted and the bag holds none.
    """
    processor = policy.processor
    robot = match_policy(robot, processor.joint_names, processor.camera_names)
    processor.bind(robot)
    source = _open(path, robot, settings)
    robot, feed, plan, start_ns = source.robot, source.feed, source.plan, source.start_ns
    run: BagRun | None = None
    for event in _events(feed):
        if run is None:
            start_ns = event.received_ns if start_ns is None else start_ns
            run = BagRun(robot, policy, settings, plan, event.received_ns)
        run.take(event)
        if progress is not None:
            progress((event.received_ns - start_ns) / NS_PER_S, source.length_s)
    if run is None:
        why = "; ".join(feed.problems) or "it has no message of the robot's topics"
        raise UnusableBag(f"bag {path}: nothing of it can be used: {why}")
    problems = feed.problems
    if plan.is_assumed and plan.has_ticks:  # of a data set nobody expects one
        assumed = f"each answer was assumed to take {plan.latency_ms:g} ms; --latency MS sets another"
        problems += (f"bag {path} has no recorded chunks: {assumed}",)
    return run.finish(str(path), problems)


@dataclass(frozen=True)
class _Recording:
    """A bag or an episode, and ``robot`` that it is replayed on. None where it doesn't say when it starts, or how long
    it is."""

    robot: RobotConfig
    feed: Feed | EpisodeFeed
    plan: Plan
    start_ns: int | None = None
    length_s: float | None = None


def _open(path: Path, robot: RobotConfig, settings: ReplaySettings) -> _Recording:
    """Raises ValueError as ``replay_bag``, but for the policy."""
    named = EpisodePath.of(path)
    if named is not None:
        with _as_unusable():
            feed = EpisodeFeed(named, robot, settings)
        return _Recording(feed.robot, feed, _plan_episode(path, feed, settings), length_s=feed.length_s)
    with _as_unusable():
        reader = BagReader(path)
    contents = reader.contents
    start_ns, end_ns = (contents.start_ns, contents.end_ns) if contents else (None, None)
    length_s = None if start_ns is None or end_ns is None else (end_ns - start_ns) / NS_PER_S
    return _Recording(robot, Feed(reader, robot, settings.namespace), _plan(path, settings), start_ns, length_s)


def _plan_episode(path: Path, feed: EpisodeFeed, settings: ReplaySettings) -> Plan:
    """A data set has no chunks. Raises ValueError where no latency is given for what has none."""
    given_ms, assumed_ms = settings.latency_ms, settings.unknown_latency_ms
    if given_ms is None and assumed_ms is None:
        raise ValueError(f"episode {path} has no chunks to take the latency from; give one: --latency MS")
    latency_ms = assumed_ms if given_ms is None else given_ms
    return Plan(feed.says_driver, latency_ms, is_assumed=given_ms is None, has_ticks=False)


@contextmanager
def _as_unusable() -> Iterator[None]:
    """What is wrong with a bag is told apart from what is wrong with whoever takes its events."""
    try:
        yield
    except ValueError as error:
        raise UnusableBag(str(error)) from error


def _events(feed: Feed | EpisodeFeed) -> Iterator[BagEvent]:
    with _as_unusable():
        yield from feed


def _plan(path: Path, settings: ReplaySettings) -> Plan:
    """What of the bag is followed. Raises ValueError where it holds no latency and none is given; UnusableBag where
    that may be because the bag is damaged."""
    names = {name: resolve_topic(name, settings.namespace) for name in (MODE, CHUNK, TRACE)}
    found, damage = _topics_found(BagReader(path), tuple(names.values()))
    says_driver = names[MODE] in found
    if settings.latency_ms is not None:
        return Plan(says_driver, settings.latency_ms)
    if names[TRACE] in found:
        return Plan(says_driver, is_traced=True)
    if names[CHUNK] not in found and settings.unknown_latency_ms is not None:
        return Plan(says_driver, settings.unknown_latency_ms, is_assumed=True)
    if names[CHUNK] not in found:
        missing = f"bag {path} has no chunks on '{names[CHUNK]}' to take the latency from; give one: --latency MS"
        raise UnusableBag(f"{damage}; {missing}") if damage else ValueError(missing)
    return Plan(says_driver)


def _topics_found(reader: BagReader, topics: tuple[str, ...]) -> tuple[set[str], str]:
    """Which of ``topics`` the bag's index says it has, or, without one, a look through it finds; and the damage, in one
    line, that ended the look before it found any."""
    if reader.contents is not None:
        return {topic.name for topic in reader.contents.topics if topic.num_messages}, ""
    found: set[str] = set()
    try:
        for message in reader.messages(topics):
            found.add(message.topic)
            if len(found) == len(topics):
                break
    except ValueError as error:
        return found, str(error)
    return found, ""


class BagRun:
    """Takes a bag's events in the order of their recording; ``finish`` gives what they came to."""

    def __init__(
        self, robot: RobotConfig, policy: ReplayPolicy, settings: ReplaySettings, plan: Plan, start_ns: int
    ) -> None:
        """``robot`` is matched to the policy."""
        rate_hz = settings.control_rate_hz or robot.control_rate_hz
        self._robot = robot
        self._policy = policy
        self._start_ns = self._now_ns = start_ns
        self._plan = plan
        self._frames = KeptFrames(robot)
        self._loop = ControlLoop(
            robot,
            LoopSettings(
                control_rate_hz=rate_hz,
                result_timeout_s=settings.result_timeout_s,
                strategy=settings.strategy,
                # Who takes over, and when, is as recorded.
                teleop=TeleopSettings(takeover="request", timeout_s=math.inf),
                handoff_ramp_s=settings.handoff_ramp_s,
                is_followed=False,
            ),
        )
        period_ns = round(NS_PER_S / rate_hz)
        latency_ns = None if plan.latency_ms is None else round(plan.latency_ms * NS_PER_MS)
        self._nodes = OfflineNodes(self._loop, policy.processor, policy.infer, latency_ns, self, start_ns, period_ns)
        self._max_pause_ns = round(max_pause_s(robot) * NS_PER_S)
        self._driver = Mode.HOLD if plan.says_driver else Mode.POLICY
        self._recording = Recording(robot, start_ns, self._driver.value if plan.says_driver else "")
        self._commands = GrowingSeries(robot.num_joints)
        self._chunks: list[ReplayedChunk] = []
        self._log = IncidentLog(robot.joint_names)
        self._was_faulty = self._was_braking = False
        self._rate = CommandRate(period_ns)
        self._taking_over: dict[str, BagEvent] = {}
        self._is_undecodable = False

    def take(self, event: BagEvent) -> None:
        """One event; ticks and answers due before it come first."""
        paused_ns, self._now_ns = self._now_ns, max(self._now_ns, event.received_ns)
        if self._now_ns - paused_ns > self._max_pause_ns:
            self._nodes.run_until(paused_ns + self._max_pause_ns)
            self._nodes.skip_ticks(self._now_ns)
        self._nodes.run_until(self._now_ns)
        match event.said:
            case Frame() as frame:
                self._see(frame)
            case JointSample() as sample:
                self._loop.sensors.joints.add(sample)
                self._recording.measure(sample)
            case Task(text):
                self._loop.sensors.task = text
                self._recording.instruct(self._now_ns, text)
            case Mode() as mode:
                self._change_driver(mode)
            case Teleop() if self._loop.mode is Mode.TELEOP:
                self._offer_teleop(event)
            case Teleop() as wanted:
                self._taking_over[wanted.topic] = event  # if it did, the mode comes with the next command
            case Command() as command:
                if self._plan.has_ticks and self._rate.fits(command.group, event.received_ns):
                    self._nodes.follow_tick(event.received_ns)
                self._recording.command(command)
            case Chunk(trajectory) if self._plan.latency_ms is None and not self._plan.is_traced:
                self._nodes.release(trajectory.stamp_ns, self._now_ns)
            case Trace() as trace if self._plan.is_traced:
                self._repeat(trace)
        self._drive_as_recorded()
        if self._loop.mode is Mode.TELEOP:
            for offered in self._taking_over.values():
                self._offer_teleop(offered)
            self._taking_over.clear()
        if isinstance(event.said, Frame | Mode) and not self._plan.is_traced:
            self._nodes.ask(self._now_ns)

    def finish(self, bag: str, problems: tuple[str, ...]) -> Replay:
        """The result."""
        self._nodes.run_until(self._now_ns)
        recorded, commands = self._recording.finish(self._now_ns), self._commands.series()
        return Replay(
            bag=bag,
            policy=self._policy.name,
            digest=self._policy.processor.digest,
            joint_names=self._robot.joint_names,
            joint_ranges=self._robot.joint_values("upper") - self._robot.joint_values("lower"),
            start_ns=self._start_ns,
            end_ns=self._now_ns,
            **vars(recorded),
            chunks=tuple(map(recorded.beside, self._chunks)),
            commands=commands,
            command_drivers=recorded.drivers(commands.times_ns),
            events=tuple(self._log.incidents),
            assumed_latency_ms=self._plan.latency_ms if self._plan.is_assumed else None,
            problems=(*problems, *([f"bag {bag}: {self._rate.problem}"] if self._rate.problem else [])),
        )

    def ticked(self, now_ns: int, tick: Tick) -> None:
        cause = self._loop.recovering_from
        if self._loop.is_faulty and not self._was_faulty:
            self._log.add(now_ns, "watchdog", f"{tick.mode.value}: {self._loop.why}")
        elif cause is not None and not self._was_braking:
            self._log.add(now_ns, "watchdog", f"braking: {cause.line}")
        self._look_for_trouble()
        if tick.command is not None:
            self._commands.add(tick.command.stamp_ns, tick.command.positions)
            self._log.commanded(now_ns, tick.command.reason)

    def answered(self, answer: Answer, request: PolicyRequest) -> None:
        self._chunks.append(ReplayedChunk.of(answer, fingerprint(request)))

    def failed(self, now_ns: int, problem: str) -> None:
        self._log.add(now_ns, "processor", problem)
        self._look_for_trouble()  # a fault that comes of it is told by now

    def _repeat(self, trace: Trace) -> None:
        try:
            observation = self._frames.observation(trace)
        except ValueError as error:
            return self.failed(self._now_ns, f"observation: {error}")
        self._nodes.repeat(observation, trace.asked_ns, min(trace.taken_ns, self._now_ns))

    def _change_driver(self, mode: Mode) -> None:
        if mode is self._driver:
            return
        if mode is Mode.POLICY and self._driver is self._loop.mode is Mode.HOLD:
            # Our commands went their own way; the recorded robot stands where it was commanded to.
            positions = self._recording.newest_command()
            if positions is not None:
                self._loop.start_at(positions)
        self._driver = mode
        self._recording.drive(self._now_ns, mode)

    def _see(self, frame: Frame) -> None:
        self._loop.sensors.cameras[frame.camera].add(frame)
        self._is_undecodable = False
        if self._plan.is_traced:
            self._frames.add(frame)

    def _offer_teleop(self, event: BagEvent) -> None:
        trajectory = event.said.trajectory
        start_ns = trajectory.stamp_ns or event.received_ns
        times_ns = tuple(start_ns + round(t * NS_PER_S) for t in trajectory.times_s)
        said = event.said
        wanted = TeleopTrajectory(times_ns, trajectory.positions, said.topic, partners=said.partners)
        refusal = self._loop.offer_teleop(wanted, self._now_ns)
        if refusal:
            self._log.add(self._now_ns, "processor", f"'{wanted.topic}' refused: {refusal}")

    def _drive_as_recorded(self) -> None:
        loop, now_ns = self._loop, self._now_ns
        if loop.mode is self._driver:
            return
        if loop.mode is Mode.ESTOP:
            loop.press_estop(False)
            loop.reset_estop()
        if self._driver is Mode.POLICY:
            self._engage()
        elif self._driver is Mode.TELEOP:
            loop.takeover(now_ns, AS_RECORDED)
        elif self._driver is Mode.ESTOP:
            loop.press_estop(True)
        else:
            loop.hold(AS_RECORDED, is_fault=False)
        self._look_for_trouble()

    def _engage(self) -> None:
        """Refused as long as there is no observation: asked again with the next event, or the next image where one
        cannot be decoded."""
        if self._is_undecodable:
            return
        try:
            self._loop.engage(self._now_ns)
        except ValueError as error:
            self._is_undecodable = True
            self.failed(self._now_ns, f"observation: {error}")

    def _look_for_trouble(self) -> None:
        """Remember whether a fault let go of the robot, and whether it is braking for one."""
        self._was_faulty, self._was_braking = self._loop.is_faulty, self._loop.recovering_from is not None
