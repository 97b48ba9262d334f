"""The control loop without a clock: at every tick one bounded command, watched over by the reasons to stop.

Not thread-safe: whoever calls it from several threads holds one lock around each call. Only ``sensors`` may be written
to at any time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.robot import RobotConfig
from vla_ros.runtime.buffers import SensorBuffers
from vla_ros.runtime.handoff import Handoff, Mode
from vla_ros.runtime.limits import BrakingRamp, Limiter
from vla_ros.runtime.observe import NoObservation, observe, stale_reason
from vla_ros.runtime.schedule import Scheduler, Target
from vla_ros.types import ActionChunk, Command, Observation

NS_PER_S = 1_000_000_000
COMMAND_HISTORY_S = 5.0


@dataclass(frozen=True)
class LoopSettings:
    """``control_rate_hz`` is the ticks' rate; a result later than ``result_timeout_s`` ends POLICY."""

    control_rate_hz: float
    result_timeout_s: float = 1.0


@dataclass(frozen=True)
class Tick:
    """What one tick gives: the mode, the command due one period later with its braking ramp, and what happened.

    ``command`` and ``ramp`` are None before the first joint state. ``observation_age_ns`` is how old the observation
    behind the command is; None where no chunk is followed. ``events`` are lines worth a log entry.
    """

    mode: Mode
    command: Command | None
    ramp: BrakingRamp | None
    observation_age_ns: int | None
    events: tuple[str, ...]


class ControlLoop:
    """Modes, requests and commands of one robot."""

    def __init__(self, robot: RobotConfig, settings: LoopSettings, scheduler: Scheduler) -> None:
        self.sensors = SensorBuffers(robot)
        self._robot = robot
        self._settings = settings
        self._scheduler = scheduler
        self._period_ns = round(NS_PER_S / settings.control_rate_hz)
        self._limiter = Limiter(robot, self._period_ns / NS_PER_S)
        self._handoff = Handoff()
        self._commands: deque[Command] = deque(maxlen=round(COMMAND_HISTORY_S * settings.control_rate_hz))
        self._last_tick_ns: int | None = None
        self._waiting_since_ns = 0
        self._requested: Observation | None = None
        self._last_requested_ns: int | None = None
        self._followed_observation_ns: int | None = None
        self._no_observation = ""

    @property
    def mode(self) -> Mode:
        return self._handoff.mode

    @property
    def why(self) -> str:
        """What led to the present mode, in one line."""
        return self._handoff.why

    @property
    def is_faulty(self) -> bool:
        """Whether a fault, and no person, led to the present mode."""
        return self._handoff.is_faulty

    def engage(self, now_ns: int) -> str:
        """Let the policy drive. Returns the reason for a refusal, empty where it drives now."""
        if self.mode is Mode.POLICY:
            return ""
        if self._limiter.positions is None:
            return f"no joint state has come on '{self._robot.joint_states.topic}'"
        observation = observe(self._robot, self.sensors, now_ns)
        if isinstance(observation, NoObservation):
            return observation.reason
        self._forget_policy()
        self._waiting_since_ns = now_ns
        self._handoff.change(Mode.POLICY, "engaged")
        return ""

    def hold(self, why: str, is_fault: bool = True) -> None:
        """Come to rest within the limits and stay there; whatever the policy still sends is dropped."""
        self._forget_policy()
        self._handoff.change(Mode.HOLD, why, is_fault)

    def begin_request(self, now_ns: int) -> Observation | None:
        """The observation to ask the model about now, if the policy drives, the model is free and there is a new one.

        The model counts as busy from here until ``accept`` or ``hold``.
        """
        if self.mode is not Mode.POLICY or self._requested is not None:
            return None
        observation = observe(self._robot, self.sensors, now_ns)
        if isinstance(observation, NoObservation):
            self._no_observation = observation.reason
            return None
        self._no_observation = ""
        if observation.stamp_ns == self._last_requested_ns:
            return None
        self._requested = observation
        self._last_requested_ns = observation.stamp_ns
        self._waiting_since_ns = now_ns
        return observation

    def requested(self, stamp_ns: int) -> Observation | None:
        """The observation of ``stamp_ns`` if its result is the one being waited for."""
        is_awaited = self._requested is not None and self._requested.stamp_ns == stamp_ns
        return self._requested if is_awaited else None

    def accept(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Follow ``chunk`` from now on if it answers the request being waited for; the first one starts now.

        Returns whether it is followed. A chunk of the wrong width or with values that are not finite ends POLICY.
        """
        if self.requested(chunk.stamp_ns) is None:
            return False
        if chunk.positions.ndim != 2 or chunk.positions.shape[1] != self._robot.num_joints or not chunk.horizon:
            got, expected = chunk.positions.shape, f"[horizon, {self._robot.num_joints}]"
            self.hold(f"the policy gave actions of shape {got}; expected {expected}")
            return False
        if not np.isfinite(chunk.positions).all():
            self.hold("the policy gave actions that are not finite")
            return False
        starts_from_rest = self._followed_observation_ns is None
        self._requested = None
        self._followed_observation_ns = chunk.stamp_ns
        if starts_from_rest:
            chunk = replace(chunk, stamp_ns=now_ns)
        self._scheduler.offer(chunk, self._command_in_force(chunk.stamp_ns))
        return True

    def tick(self, now_ns: int) -> Tick:
        """The command due one control period after ``now_ns``. Ticks lie whole periods apart; some may be missing."""
        self._skip_missed_ticks(now_ns)
        if self._limiter.positions is None:
            self._start_from_measurement(now_ns)
        if self._limiter.positions is None:
            return Tick(self.mode, None, None, None, self._handoff.take_changes())
        due_ns = now_ns + self._period_ns
        if self.mode is Mode.POLICY:
            self._watch(now_ns, due_ns)
        target = self._target(due_ns)
        command = self._limiter.follow(target, due_ns) if target is not None else self._limiter.brake(due_ns)
        self._commands.append(command)
        age_ns = now_ns - self._followed_observation_ns if target is not None else None
        ramp = self._limiter.braking_ramp(command)
        return Tick(self.mode, command, ramp, age_ns, self._handoff.take_changes())

    def _target(self, due_ns: int) -> Target | None:
        return self._scheduler.target(due_ns) if self.mode is Mode.POLICY else None

    def _watch(self, now_ns: int, due_ns: int) -> None:
        """End POLICY where going on would be blind."""
        stale = stale_reason(self._robot, self.sensors, now_ns)
        if stale:
            return self.hold(stale)
        waited_s = (now_ns - self._waiting_since_ns) / NS_PER_S
        is_waiting = self._requested is not None or self._followed_observation_ns is None
        if is_waiting and waited_s > self._settings.result_timeout_s:
            why = self._no_observation or "no result came from vla_model"
            return self.hold(f"{why}; waited {waited_s:.2f} s, expected at most {self._settings.result_timeout_s:g} s")
        if self._followed_observation_ns is not None and self._scheduler.target(due_ns) is None:
            why = self._no_observation or "no newer result came from vla_model"
            self.hold(f"the action chunk is used up: {why}")

    def _forget_policy(self) -> None:
        self._scheduler.clear()
        self._requested = None
        self._followed_observation_ns = None
        self._no_observation = ""

    def _skip_missed_ticks(self, now_ns: int) -> None:
        if self._last_tick_ns is not None:
            num_missed = round((now_ns - self._last_tick_ns) / self._period_ns) - 1
            if num_missed > 0:
                self._limiter.skip(num_missed)
        self._last_tick_ns = now_ns

    def _start_from_measurement(self, now_ns: int) -> None:
        sample = self.sensors.joints.newest()
        if sample is not None and now_ns - sample.stamp_ns <= self._robot.joint_states.max_age_s * NS_PER_S:
            self._limiter.start_at(sample.positions)

    def _command_in_force(self, t_ns: int) -> np.ndarray:
        """The commanded positions ``[num_joints]`` at ``t_ns``, interpolated between the commands around it."""
        newer = self._commands[-1]
        for command in reversed(self._commands):
            if command.stamp_ns <= t_ns:
                if newer is command:
                    return command.positions
                weight = (t_ns - command.stamp_ns) / (newer.stamp_ns - command.stamp_ns)
                return command.positions + weight * (newer.positions - command.positions)
            newer = command
        return newer.positions
