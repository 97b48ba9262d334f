"""One bag through the whole node: its sensors into the control loop, its instructions, humans and drivers as recorded,
and the policy's chunks out of the very processor and model that drive the robot. Time is the bag's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla_ros import topics
from vla_ros.recordings.events import (
    ChunkEvent,
    CommandEvent,
    Event,
    FrameEvent,
    JointsEvent,
    ModeEvent,
    TaskEvent,
    TeleopEvent,
    TraceEvent,
)
from vla_ros.replay.baseline.fingerprint import InputFingerprint, fingerprint
from vla_ros.replay.beside import KeptAnswer, Recorded, make_stretches
from vla_ros.replay.command_rate import CommandRate
from vla_ros.replay.event_log import EventLog
from vla_ros.replay.offline import OfflineNodes
from vla_ros.replay.policy import ReplayPolicy
from vla_ros.replay.records import Replay, Stretch
from vla_ros.replay.series import GrowingSeries, TimeSeries
from vla_ros.replay.settings import Plan, ReplaySettings, Timing
from vla_ros.replay.traced import KeptFrames
from vla_ros.robot import RobotConfig
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING
from vla_ros.runtime.teleop import TeleopSettings, TeleopTrajectory
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Answer, Frame, Mode, Observation
from vla_ros.units import NS_PER_MS, NS_PER_S

AS_RECORDED = "as recorded"


@dataclass(frozen=True)
class _Trouble:
    """Whether a fault let go of the robot, and whether it is braking for one."""

    is_faulty: bool = False
    is_braking: bool = False


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
        self._latency_ms = plan.latency_ms
        self._timing = plan.timing
        self._assumed_latency_ms = plan.latency_ms if settings.latency_ms is None else None
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
            ),
        )
        period_ns = round(NS_PER_S / rate_hz)
        self._nodes = OfflineNodes(
            self._loop, policy.processor, self._infer, self._latency_ns, self, start_ns, period_ns
        )
        self._driver = Mode.HOLD if plan.says_driver else Mode.POLICY
        self._joints = GrowingSeries(robot.num_joints)
        self._recorded = {output.name: GrowingSeries(len(output.joints)) for output in robot.outputs}
        self._commands = GrowingSeries(robot.num_joints)
        self._fingerprints: dict[int, InputFingerprint] = {}
        self._answers: list[KeptAnswer] = []
        self._drivers: list[tuple[int, str]] = [(start_ns, self._driver.value if plan.says_driver else "")]
        self._tasks: list[tuple[int, str]] = []
        self._log = EventLog(robot.joint_names)
        self._trouble = _Trouble()
        self._rate = CommandRate(period_ns)
        self._taking_over: TeleopEvent | None = None
        self._is_undecodable = False

    def take(self, event: Event) -> None:
        """One event; ticks and answers due before it come first."""
        self._now_ns = max(self._now_ns, event.received_ns)
        self._nodes.run_until(self._now_ns)
        match event:
            case FrameEvent():
                self._see(event.frame)
            case JointsEvent():
                self._loop.sensors.joints.add(event.sample)
                self._joints.add(event.stamp_ns, event.sample.positions)
            case TaskEvent():
                self._loop.sensors.task = event.task
                if not self._tasks or event.task != self._tasks[-1][1]:  # a repeated one is the same episode's
                    self._tasks.append((self._now_ns, event.task))
            case ModeEvent():
                self._change_driver(event.mode)
            case TeleopEvent() if self._loop.mode is Mode.TELEOP:
                self._offer_teleop(event)
            case TeleopEvent():
                self._taking_over = event  # if it did, the mode comes with the next command
            case CommandEvent():
                if self._rate.fits(event.group, event.received_ns):
                    self._nodes.follow_tick(event.received_ns)
                self._recorded[event.group].add(event.due_ns, event.trajectory.positions[0])
            case ChunkEvent() if self._timing is Timing.OF_CHUNKS:
                self._nodes.release(event.stamp_ns, self._now_ns)
            case TraceEvent() if self._timing is Timing.OF_TRACE:
                self._repeat(event)
        self._drive_as_recorded()
        if self._taking_over is not None and self._loop.mode is Mode.TELEOP:
            self._offer_teleop(self._taking_over)
            self._taking_over = None
        if isinstance(event, FrameEvent | ModeEvent) and self._timing is not Timing.OF_TRACE:
            self._nodes.ask(self._now_ns)

    def finish(self, bag: str, problems: tuple[str, ...]) -> Replay:
        """What it all came to."""
        self._nodes.run_until(self._now_ns)
        recorded = Recorded(
            modes=make_stretches(self._drivers, self._now_ns),
            episodes=make_stretches(self._tasks, self._now_ns) or (Stretch(self._start_ns, self._now_ns, ""),),
            commands=self._recorded_commands(),
            joints=self._joints.series(),
        )
        commands = self._commands.series()
        return Replay(
            bag=bag,
            policy=self._policy.name,
            digest=self._policy.processor.digest,
            joint_names=self._robot.joint_names,
            joint_ranges=self._robot.joint_values("upper") - self._robot.joint_values("lower"),
            chunk_dt_s=self._policy.processor.chunk_shape.dt_s,
            start_ns=self._start_ns,
            end_ns=self._now_ns,
            episodes=recorded.episodes,
            modes=recorded.modes,
            chunks=tuple(map(recorded.beside, self._answers)),
            commands=commands,
            command_drivers=recorded.drivers(commands.times_ns),
            recorded_commands=recorded.commands,
            joints=recorded.joints,
            events=self._log.events,
            assumed_latency_ms=self._assumed_latency_ms,
            problems=(*problems, *([f"bag {bag}: {self._rate.problem}"] if self._rate.problem else [])),
        )

    def ticked(self, now_ns: int, tick: Tick) -> None:
        before, cause = self._trouble, self._loop.recovering_from
        self._look_for_trouble()
        if self._trouble.is_faulty and not before.is_faulty:
            self._log.stopped(now_ns, f"{tick.mode.value}: {self._loop.why}")
        elif cause is not None and not before.is_braking:
            self._log.stopped(now_ns, f"braking: {cause.line}")
        if tick.command is not None:
            self._commands.add(tick.command.stamp_ns, tick.command.positions)
            self._log.commanded(now_ns, tick.command.reason)

    def answered(self, answer: Answer) -> None:
        times_ns = answer.observation.header_ns, answer.asked_ns, answer.arrived_ns
        given = self._fingerprints[answer.observation.stamp_ns]
        self._answers.append(KeptAnswer(*times_ns, answer.chunk, given))

    def failed(self, now_ns: int, problem: str) -> None:
        self._log.refused(now_ns, problem)
        self._look_for_trouble()  # a fault that comes of it is told by now

    def _infer(self, request: PolicyRequest) -> np.ndarray:
        actions = self._policy.infer(request)
        newest = list(self._fingerprints.items())[1 - MAX_OUTSTANDING :]
        self._fingerprints = {**dict(newest), request.stamp_ns: fingerprint(request)}
        return actions

    def _latency_ns(self, observation: Observation) -> int | None:
        return None if self._latency_ms is None else round(self._latency_ms * NS_PER_MS)

    def _repeat(self, event: TraceEvent) -> None:
        trace = event.trace
        try:
            observation = self._frames.observation(trace)
        except ValueError as error:
            return self.failed(self._now_ns, f"observation: {error}")
        self._nodes.repeat(observation, trace.asked_ns, min(trace.taken_ns, self._now_ns))

    def _change_driver(self, mode: Mode) -> None:
        if mode is self._driver:
            return
        if mode is Mode.POLICY and self._driver is Mode.HOLD:
            self._start_from_recorded()
        self._driver = mode
        self._drivers.append((self._now_ns, mode.value))

    def _start_from_recorded(self) -> None:
        """Our commands went their own way; the recorded robot stands where it was commanded to."""
        positions = self._newest_recorded()
        if positions is not None and self._loop.mode is Mode.HOLD:
            self._loop.start_at(positions)

    def _newest_recorded(self) -> np.ndarray | None:
        positions = np.full(self._robot.num_joints, np.nan)
        for output in self._robot.outputs:
            newest = self._recorded[output.name].newest()
            if newest is not None:
                positions[[self._robot.joint_names.index(name) for name in output.joints]] = newest
        return positions if np.isfinite(positions).all() else None

    def _see(self, frame: Frame) -> None:
        self._loop.sensors.cameras[frame.camera].add(frame)
        self._is_undecodable = False
        if self._timing is Timing.OF_TRACE:
            self._frames.add(frame)

    def _offer_teleop(self, event: TeleopEvent) -> None:
        start_ns = event.stamp_ns or event.received_ns
        times_ns = tuple(start_ns + round(t * NS_PER_S) for t in event.trajectory.times_s)
        refusal = self._loop.offer_teleop(TeleopTrajectory(times_ns, event.trajectory.positions), self._now_ns)
        if refusal:
            self._log.refused(self._now_ns, f"'{topics.TELEOP}' refused: {refusal}")

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
        self._trouble = _Trouble(self._loop.is_faulty, self._loop.recovering_from is not None)

    def _recorded_commands(self) -> TimeSeries:
        """The outputs' commands put together, at the times of the first one's."""
        whole: TimeSeries | None = None
        for output in self._robot.outputs:
            part = self._recorded[output.name].series()
            columns = [self._robot.joint_names.index(name) for name in output.joints]
            if whole is None:
                whole = TimeSeries(part.times_ns, np.full((len(part), self._robot.num_joints), np.nan))
                whole.values[:, columns] = part.values
            else:
                whole.values[:, columns] = part.at(whole.times_ns)
        assert whole is not None
        return whole
