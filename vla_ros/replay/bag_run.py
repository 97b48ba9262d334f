"""One bag through the whole node: its sensors into the control loop, its instructions, humans and drivers as recorded, and the
policy's chunks out of the very processor and model that drive the robot. Time is the bag's."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from vla_ros.replay.beside import MAX_GAP_S, Beside, make_spans
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
from vla_ros.replay.golden.fingerprint import InputFingerprint, fingerprint
from vla_ros.replay.history import History
from vla_ros.replay.offline import OfflineNodes
from vla_ros.replay.policy import ReplayPolicy
from vla_ros.replay.records import Replay, Series, Span
from vla_ros.replay.records import Event as ReplayEvent
from vla_ros.replay.settings import Plan, ReplaySettings, Timing
from vla_ros.robot import RobotConfig
from vla_ros.runtime.handoff import Mode
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.runtime.teleop import TeleopSettings, TeleopTrajectory
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Answer, Frame, Observation

NS_PER_S = 1_000_000_000
KEPT_S = 2.0
"""An answer that comes later than this after its observation is a fault anyway."""
AS_RECORDED = "as recorded"


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
        self._frames: dict[str, OrderedDict[int, Frame]] = {name: OrderedDict() for name in robot.camera_names}
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
        self._joints = History(robot.num_joints)
        self._recorded = {output.name: History(len(output.joints)) for output in robot.outputs}
        self._commands = History(robot.num_joints)
        self._fingerprints: dict[int, InputFingerprint] = {}
        self._answers: list[tuple[Answer, InputFingerprint]] = []
        self._drivers: list[tuple[int, str]] = [(start_ns, self._driver.value if plan.says_driver else "")]
        self._tasks: list[tuple[int, str]] = []
        self._events: list[ReplayEvent] = []
        self._taking_over: TeleopEvent | None = None
        self._bound = ""

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
                self._tasks.append((self._now_ns, event.task))
            case ModeEvent():
                self._change_driver(event.mode)
            case TeleopEvent() if self._loop.mode is Mode.TELEOP:
                self._offer_teleop(event)
            case TeleopEvent():
                self._taking_over = event  # if it did, the mode comes with the next command
            case CommandEvent():
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
        modes = make_spans(self._drivers, self._now_ns)
        episodes = make_spans(self._tasks, self._now_ns) or (Span(self._start_ns, self._now_ns, ""),)
        recorded = self._recorded_commands()
        joints = self._joints.series()
        commands = self._commands.series()
        look = Beside(modes, episodes, recorded, joints)
        shape = self._policy.processor.chunk_shape
        return Replay(
            bag=bag,
            policy=self._policy.name,
            digest=self._policy.processor.digest,
            joint_names=self._robot.joint_names,
            joint_ranges=self._robot.joint_values("upper") - self._robot.joint_values("lower"),
            chunk_dt_s=shape.dt_s,
            start_ns=self._start_ns,
            end_ns=self._now_ns,
            episodes=episodes,
            modes=modes,
            chunks=tuple(look.chunk(*answer) for answer in self._answers),
            commands=commands,
            command_drivers=np.array([look.driver(int(t)) for t in commands.times_ns], dtype="U6"),
            recorded_commands=recorded,
            joints=joints,
            events=tuple(self._events),
            problems=problems,
        )

    def ticked(self, now_ns: int, tick: Tick) -> None:
        for line in tick.events:
            if self._loop.is_faulty or line.startswith("braking:"):
                self._events.append(ReplayEvent(now_ns, "watchdog", line))
        if tick.command is None:
            return
        self._commands.add(tick.command.stamp_ns, tick.command.positions)
        bound = tick.command.reason
        if bound and bound != self._bound:
            joint = next((name for name in self._robot.joint_names if f"'{name}'" in bound), "")
            self._events.append(ReplayEvent(now_ns, "limit", bound, joint))
        self._bound = bound

    def answered(self, answer: Answer, is_used: bool) -> None:
        fingerprint = self._fingerprints.pop(answer.observation.stamp_ns)
        if is_used:
            self._answers.append((answer, fingerprint))

    def failed(self, now_ns: int, problem: str) -> None:
        self._events.append(ReplayEvent(now_ns, "processor", problem))

    def _infer(self, request: PolicyRequest) -> np.ndarray:
        actions = self._policy.infer(request)
        self._fingerprints[request.stamp_ns] = fingerprint(request)
        return actions

    def _latency_ns(self, observation: Observation) -> int | None:
        return None if self._latency_ms is None else round(self._latency_ms * 1e6)

    def _repeat(self, event: TraceEvent) -> None:
        trace = event.trace
        frames = {name: self._frames[name].get(stamp_ns) for name, stamp_ns in trace.cameras_ns.items()}
        missing = [name for name in self._robot.camera_names if frames.get(name) is None]
        if missing:
            line = f"the bag lacks the image of camera '{missing[0]}' that a chunk was made of"
            self._events.append(ReplayEvent(self._now_ns, "processor", line))
            return
        observation = Observation(
            stamp_ns=min(trace.cameras_ns.values()),
            headers_ns=trace.cameras_ns,
            images={name: frames[name].image for name in self._robot.camera_names},
            joint_positions=np.array(trace.joint_positions),
            task=trace.task,
        )
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
        if self._timing is Timing.OF_TRACE:
            kept = self._frames[frame.camera]
            kept[frame.header_ns] = frame
            while frame.header_ns - next(iter(kept)) > KEPT_S * NS_PER_S:
                kept.popitem(last=False)

    def _offer_teleop(self, event: TeleopEvent) -> None:
        start_ns = event.stamp_ns or event.received_ns
        times_ns = tuple(start_ns + round(t * NS_PER_S) for t in event.trajectory.times_s)
        refusal = self._loop.offer_teleop(TeleopTrajectory(times_ns, event.trajectory.positions), self._now_ns)
        if refusal:
            self._events.append(ReplayEvent(self._now_ns, "processor", f"'vla_policy/teleop' refused: {refusal}"))

    def _drive_as_recorded(self) -> None:
        loop, now_ns = self._loop, self._now_ns
        if loop.mode is self._driver:
            return
        if loop.mode is Mode.ESTOP:
            loop.press_estop(False)
            loop.reset_estop()
        if self._driver is Mode.POLICY:
            loop.engage(now_ns)  # refused as long as there is no observation: asked again with the next event
        elif self._driver is Mode.TELEOP:
            loop.takeover(now_ns, AS_RECORDED)
        elif self._driver is Mode.ESTOP:
            loop.press_estop(True)
        else:
            loop.hold(AS_RECORDED, is_fault=False)

    def _recorded_commands(self) -> Series:
        """The outputs' commands put together, at the times of the first one's."""
        whole: Series | None = None
        for output in self._robot.outputs:
            part = self._recorded[output.name].series()
            columns = [self._robot.joint_names.index(name) for name in output.joints]
            if whole is None:
                whole = Series(part.times_ns, np.full((len(part), self._robot.num_joints), np.nan))
                whole.values[:, columns] = part.values
            else:
                whole.values[:, columns] = part.at(whole.times_ns, MAX_GAP_S)
        assert whole is not None
        return whole
