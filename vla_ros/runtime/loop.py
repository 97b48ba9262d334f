"""The control loop without a clock: at every tick one bounded command, watched over by the reasons to stop.

Not thread-safe: whoever calls it from several threads holds one lock around each call. Only ``sensors`` may be written
to at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros import topics
from vla_ros.observing.buffers import SensorBuffers
from vla_ros.observing.freshness import Fault, frozen_fault, jump_fault, sensor_fault
from vla_ros.observing.observe import NoObservation, observe
from vla_ros.robot import RobotConfig
from vla_ros.runtime.handoff import Handoff
from vla_ros.runtime.history import PositionHistory
from vla_ros.runtime.limits import BrakingRamp, Limiter
from vla_ros.runtime.missed import MissedTicks
from vla_ros.runtime.path import Ramp, Target
from vla_ros.runtime.policy_driver import Asked, PolicyDriver
from vla_ros.runtime.recovery import Recovery
from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.runtime.teleop import Teleop, TeleopSettings, TeleopTrajectory
from vla_ros.runtime.tracking import Tracking
from vla_ros.runtime.watchdogs import overrun_fault, result_fault
from vla_ros.types import ActionChunk, ChunkShape, Command, Continuation, JointSample, Mode, Observation
from vla_ros.units import NS_PER_S

AIM_HISTORY_S = 5.0
MAX_SHADOW_AGE_S = 0.5
MAX_SHADOW_DISTANCE = 0.15
ESTOP_LATCHED = f"{Mode.ESTOP.value} is latched; call '{topics.RESET_ESTOP}' first"
NOT_BEGUN = "the control loop has not begun"


@dataclass(frozen=True)
class LoopSettings:
    """``control_rate_hz`` is the ticks' rate; a result later than ``result_timeout_s`` is a fault; a change of driver
    is drawn out over ``handoff_ramp_s``; with ``shadow`` the policy is asked while a human drives, too.
    ``is_followed`` says that an arm follows the commands, to be watched doing so: the arm of a bag doesn't."""

    control_rate_hz: float
    result_timeout_s: float = 1.0
    strategy: str = "latest"
    teleop: TeleopSettings = TeleopSettings()
    handoff_ramp_s: float = 0.2
    shadow: bool = True
    is_followed: bool = True


@dataclass(frozen=True)
class Tick:
    """What one tick gives: the mode, the command due one period later with its braking ramp, and what happened.

    ``command`` and ``ramp`` are None before the first joint state, and while the arm is away from where it was left:
    its controller keeps the last one. ``observation_age_ns`` is how old the observation behind the command is; None
    where no chunk is followed. ``events`` are lines worth a log entry.
    """

    mode: Mode
    command: Command | None
    ramp: BrakingRamp | None
    observation_age_ns: int | None
    events: tuple[str, ...]


class ControlLoop:
    """Modes, requests and commands of one robot."""

    def __init__(self, robot: RobotConfig, settings: LoopSettings) -> None:
        self.sensors = SensorBuffers(robot)
        self._fault: Fault | None = None
        self._robot = robot
        self._settings = settings
        self._period_ns = round(NS_PER_S / settings.control_rate_hz)
        self._limiter = Limiter(robot, self._period_ns / NS_PER_S)
        self._handoff = Handoff()
        self._teleop = Teleop(settings.teleop, robot, self._period_ns)
        self._policy = PolicyDriver(STRATEGIES[settings.strategy](), settings.result_timeout_s / 2)
        self._aims = PositionHistory(round(AIM_HISTORY_S * settings.control_rate_hz))
        self._tracking = Tracking(robot, self.sensors, settings.is_followed)
        self._missed = MissedTicks(self._period_ns, robot.is_stamped)
        self._waiting_since_ns = 0
        self._engaged_ns = 0
        self._no_observation = ""
        self._recovery = Recovery(robot.watchdogs, self._period_ns / NS_PER_S)
        self._ramp = Ramp(settings.handoff_ramp_s, self._period_ns)

    @property
    def mode(self) -> Mode:
        return self._handoff.mode

    @property
    def why(self) -> str:
        """What led to the present mode, and what has become of the arm since, in one line."""
        return self._handoff.why

    @property
    def is_faulty(self) -> bool:
        """Whether a fault, and no person, led to the present mode, or the arm isn't where it was left."""
        return self._handoff.is_faulty

    @property
    def fault(self) -> Fault | None:
        """The newest fault since somebody began to drive."""
        return self._fault

    @property
    def recovering_from(self) -> Fault | None:
        """The fault that the policy brakes for and will go on after; None where it drives, or nobody lets it."""
        return self._recovery.cause

    @property
    def num_late_chunks(self) -> int:
        """How many chunks came later than predicted."""
        return self._policy.delays.num_late

    def engage(self, now_ns: int) -> str:
        """Let the policy drive. Returns the reason for a refusal, empty where it drives now."""
        if self.mode is Mode.POLICY:
            return ""
        if self.mode is Mode.ESTOP:
            return ESTOP_LATCHED
        refusal = self._tracking.refusal(now_ns)
        if refusal or self._limiter.positions is None:
            return refusal or NOT_BEGUN
        observation = observe(self._robot, self.sensors, now_ns)
        if isinstance(observation, NoObservation):
            return observation.reason
        shadow = self._policy.shadow
        self._release()
        self._fault = None
        self._waiting_since_ns = self._engaged_ns = now_ns
        self._handoff.change(Mode.POLICY, "engaged")
        if shadow is not None and now_ns - shadow.stamp_ns <= MAX_SHADOW_AGE_S * NS_PER_S:
            # Made while the human drove: worth following only where it continues what they did.
            if self._policy.is_near(shadow, self._limiter.positions, now_ns, MAX_SHADOW_DISTANCE):
                start = self._aims.at(shadow.stamp_ns)
                self._policy.follow_shadow(shadow, start, now_ns)
        return ""

    def start_at(self, positions: np.ndarray) -> None:
        """In HOLD at ``positions`` ``[num_joints]``, at rest: for whoever knows better than a measurement what was last
        commanded."""
        assert self.mode is Mode.HOLD
        self._limiter.start_at(positions)

    def takeover(self, now_ns: int, why: str = "asked to take over") -> str:
        """Let the human drive. Returns the reason for a refusal, empty where they drive now."""
        if self.mode is Mode.TELEOP:
            return ""
        if self.mode is Mode.ESTOP:
            return ESTOP_LATCHED
        refusal = self._tracking.refusal(now_ns)
        if refusal or self._limiter.positions is None:
            return refusal or NOT_BEGUN
        self._release()
        self._fault = None
        self._teleop.start(now_ns)
        self._handoff.change(Mode.TELEOP, why)
        return ""

    def offer_teleop(self, trajectory: TeleopTrajectory, now_ns: int) -> str:
        """A human's trajectory: takes over where it may, is followed where a human drives. Returns the reason why it is
        refused, empty where it is not."""
        if refusal := self._teleop.hear(trajectory, now_ns):
            return self.reject_teleop(refusal, trajectory.topic)
        if self.mode is not Mode.TELEOP:
            if self.mode is Mode.ESTOP or not self._teleop.takes_over(trajectory):
                return ESTOP_LATCHED if self.mode is Mode.ESTOP else ""
            refusal = self._teleop.distance(trajectory, self._limiter.positions, now_ns)
            refusal = refusal or self.takeover(now_ns, f"a human moves the robot on '{trajectory.topic}'")
            if refusal:
                return self.reject_teleop(refusal, trajectory.topic)
        return self._teleop.follow(trajectory, self._aims.at(now_ns), now_ns)

    def reject_teleop(self, why: str, topic: str = topics.TELEOP.name) -> str:
        """A human said something that cannot be followed: where it could have taken over, nobody drives on against
        it. Returns ``why``."""
        is_heard = self.mode is Mode.POLICY and self._settings.teleop.takeover != "request"
        if is_heard or self.mode is Mode.TELEOP:
            self._fault = Fault("teleop", why)
            self.hold(f"a human's message on '{topic}' cannot be followed: {why}")
        return why

    def waits(self, now_ns: int) -> str:
        """What a human who has the robot is waited for, in one line; empty where their hand is followed, or will be."""
        return self._teleop.waits(self._limiter.positions, now_ns) if self.mode is Mode.TELEOP else ""

    def hold(self, why: str, is_fault: bool = True) -> None:
        """Come to rest within the limits and stay there; whatever the policy still sends is dropped."""
        if self.mode is not Mode.ESTOP:
            self._release()
            self._handoff.change(Mode.HOLD, why, is_fault)

    def fail_policy(self, why: str, now_ns: int) -> None:
        """What the policy answered is no use, or it could not be asked; a human who drives is not disturbed."""
        if self.mode is Mode.POLICY:
            self._act_on(Fault("answer", why), now_ns)

    def press_estop(self, is_pressed: bool) -> None:
        """What the emergency stop says now; pressed, the robot brakes and stays until ``reset_estop``."""
        if is_pressed:
            self._release()
        self._handoff.press_estop(is_pressed)

    def reset_estop(self) -> str:
        """From ESTOP to HOLD. Returns the reason for a refusal."""
        refusal = self._tracking.distance() if self.mode is Mode.ESTOP else ""
        return refusal or self._handoff.reset_estop()

    def clock_jumped(self, line: str, now_ns: int) -> None:
        """ROS time has jumped: nothing stamped before is of any use."""
        self.sensors.clear()
        fault = Fault("clock", line)
        if self.mode is Mode.POLICY:
            self._act_on(fault, now_ns)
        elif self.mode is Mode.TELEOP:
            self._fault = fault
            self.hold(line)

    def begin_request(self, now_ns: int, repeated: Observation | None = None) -> Observation | None:
        """The observation to ask the model about now, if somebody drives, the model is free and there is a new one:
        ``repeated``, or else what the sensors make.

        The model counts as busy from here until ``accept``, ``hold``, or half the time a result may take.
        """
        is_shadow = self.mode is Mode.TELEOP and self._settings.shadow
        if not (self.mode is Mode.POLICY or is_shadow) or self._policy.is_busy(now_ns) or not self._recovery.may_ask:
            return None
        observation = repeated or observe(self._robot, self.sensors, now_ns)
        if isinstance(observation, NoObservation):
            self._no_observation = observation.reason
            return None
        self._no_observation = ""
        return observation if self._policy.ask(observation, now_ns) else None

    def requested(self, stamp_ns: int) -> Asked | None:
        """What was asked about the observation of ``stamp_ns`` if its result is waited for."""
        return self._policy.asked(stamp_ns)

    def continuation(self, observation: Observation, shape: ChunkShape) -> Continuation | None:
        """What the answer to ``observation`` is to continue; None but for strategy ``rtc`` with a chunk to continue.

        Raises ValueError where chunks are too short for that.
        """
        if self._settings.strategy != "rtc" or self.mode is not Mode.POLICY:
            return None
        return self._policy.continuation(observation, shape)

    def accept(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Follow ``chunk`` from now on if it answers a request and the policy drives; the first one starts now.

        Returns whether it is of use. A chunk of the wrong width or with values that are not finite is a fault of the
        policy; while a human drives, chunks are only kept.
        """
        if self._policy.asked(chunk.stamp_ns) is None:
            return False
        self._policy.answered(chunk.stamp_ns)
        problem = self.unusable(chunk)
        if problem:
            self.fail_policy(problem, now_ns)
            return False
        if self.mode is Mode.TELEOP:
            self._policy.shadow = chunk
            return True
        self._policy.follow(chunk, self._aims.at(chunk.stamp_ns), now_ns)
        return True

    def unusable(self, chunk: ActionChunk) -> str:
        """What is wrong with a chunk, in one line; empty where it can be followed."""
        if chunk.positions.ndim != 2 or chunk.positions.shape[1] != self._robot.num_joints or not chunk.horizon:
            got, expected = chunk.positions.shape, f"[horizon, {self._robot.num_joints}]"
            return f"the policy gave actions of shape {got}; expected {expected}"
        return "" if np.isfinite(chunk.positions).all() else "the policy gave actions that are not finite"

    def tick(self, now_ns: int, model_fault: Fault | None = None) -> Tick:
        """The command due one control period after ``now_ns``. Ticks lie whole periods apart; some may be missing.

        ``model_fault`` is what is wrong with the model node now.
        """
        num_missed = self._missed.before(now_ns)
        if num_missed and self._limiter.positions is not None:
            self._limiter.skip(num_missed)
            self._tracking.commanded(now_ns, self._limiter.positions)
        missed_ns = num_missed * self._period_ns + self._missed.take_late_ns()
        if self._limiter.positions is None:
            self._begin_at(self._tracking.start(now_ns), now_ns)
        due_ns = now_ns + self._period_ns
        self._watch(now_ns, due_ns, missed_ns, model_fault)
        commanded = self._limiter.positions
        target = None if commanded is None else self._target(due_ns, commanded)
        if commanded is None or (target is None and not self._can_stay(now_ns)):
            return Tick(self.mode, None, None, None, self._handoff.take_changes())
        command = self._limiter.follow(target, due_ns) if target is not None else self._limiter.brake(due_ns)
        self._aims.add(due_ns, command.positions if target is None else self._limiter.aim(target, command))
        self._tracking.commanded(due_ns, command.positions)
        followed_ns = self._policy.followed_ns if target is not None and self.mode is Mode.POLICY else None
        age_ns = None if followed_ns is None else now_ns - followed_ns
        return Tick(self.mode, command, self._limiter.braking_ramp(command), age_ns, self._handoff.take_changes())

    def sent(self, now_ns: int) -> None:
        """The last tick's command has gone out."""
        self._missed.sent(now_ns)

    def _target(self, due_ns: int, commanded: np.ndarray) -> Target | None:
        if self._recovery.cause is not None or self.mode not in (Mode.POLICY, Mode.TELEOP):
            return None
        target = self._policy.target(due_ns) if self.mode is Mode.POLICY else self._teleop.target(due_ns)
        return self._ramp.lead_in(target, commanded, due_ns)

    def _watch(self, now_ns: int, due_ns: int, missed_ns: int, model_fault: Fault | None) -> None:
        """Let go, or brake until it is over, where going on would be blind."""
        if self.mode is Mode.TELEOP:
            fault = self._teleop.silence(now_ns) or self._tracking.arm_fault(now_ns)
            overrun = overrun_fault(self._robot, missed_ns / NS_PER_S)
            if fault is None and overrun is not None and self._recovery.needs_human(overrun):
                fault = overrun
            if fault is not None:
                self._fault = fault
                self.hold(fault.line)
            elif overrun is not None:  # over when it is known: the human goes on
                self._fault = overrun
                self._handoff.note(overrun.line)
            return
        if self.mode is not Mode.POLICY:
            away, jump = self._tracking.fault(), jump_fault(self._robot, self.sensors, now_ns)
            self._fault = away or jump or self._fault
            return self._handoff.trouble({fault.kind: fault.line for fault in (away, jump) if fault}, now_ns)
        fault, cause = self._policy_fault(now_ns, due_ns, missed_ns, model_fault), self._recovery.cause
        if fault is not None:
            self._act_on(fault, now_ns)
        elif cause is not None and self._recovery.is_over(is_answered=self._policy.followed_ns is not None):
            self._handoff.note(f"over: {cause.line}")
            self._recovery.end()
        elif cause is not None and self._recovery.lasts_too_long(now_ns):
            self.hold(cause.line)

    def _policy_fault(self, now_ns: int, due_ns: int, missed_ns: int, model_fault: Fault | None) -> Fault | None:
        fault = (
            overrun_fault(self._robot, missed_ns / NS_PER_S)
            or self._tracking.arm_fault(now_ns)
            or sensor_fault(self._robot, self.sensors, now_ns)
            or frozen_fault(self._robot, self.sensors, self._engaged_ns)
            or model_fault
        )
        if fault is not None:
            return fault
        if self._recovery.cause is not None:  # the policy gets its time anew
            self._waiting_since_ns = now_ns
        since_ns = self._waiting_since_ns if self._policy.waiting_since_ns is None else self._policy.waiting_since_ns
        if self._policy.waiting_since_ns is not None or self._policy.followed_ns is None:
            why = self._no_observation or f"no result came from {topics.MODEL_NODE}"
            fault = result_fault(why, (now_ns - since_ns) / NS_PER_S, self._settings.result_timeout_s)
            if fault is not None:
                return fault
        if self._policy.followed_ns is not None and self._policy.target(due_ns) is None:
            why = self._no_observation or f"no newer result came from {topics.MODEL_NODE}"
            return Fault("chunk", f"the action chunk is used up: {why}")
        return None

    def _can_stay(self, now_ns: int) -> bool:
        """Whether there is something to command while nobody drives. An arm that is away from the last command, come to
        rest, is commanded to stay where it is once it rests there."""
        if not self._limiter.is_at_rest or not self._tracking.look(now_ns):
            return True
        place = self._tracking.resting_place(now_ns)
        if place is not None:
            self._begin_at(place, now_ns)
            self._handoff.settled("tracking", "it rests and is commanded to stay where it is now")
        return place is not None

    def _act_on(self, fault: Fault, now_ns: int) -> None:
        """HOLD, or brake and stay where the robot file says so and it hasn't lasted too long."""
        self._fault = fault
        if not self._recovery.allows(fault, now_ns):
            return self.hold(fault.line)
        if self._recovery.cause is None:
            self._handoff.note(f"braking: {fault.line}")
            self._release()
            self._recovery.begin(fault, now_ns)
            self._waiting_since_ns = now_ns

    def _release(self) -> None:
        """Whoever drove drives no more: nothing of theirs is left, and the next one is led in gently."""
        self._policy.forget()
        self._teleop.stop()
        self._no_observation = ""
        self._recovery.end()
        self._ramp.restart()

    def _begin_at(self, measured: JointSample | None, now_ns: int) -> None:
        if measured is not None:
            age_s = max(0, now_ns - measured.stamp_ns) / NS_PER_S
            positions = self._limiter.start_at(measured.positions, measured.velocities, age_s)
            self._aims.restart(now_ns, positions)
            self._tracking.restart(now_ns, positions)
