"""``vla_policy``: the robot side. Sensors in, bounded commands out at a steady rate; never waits for the model."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.messages.trace import Trace, encode_trace
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.nodes.human_inputs import HumanInputs
from vla_ros.nodes.model_link import ModelLink
from vla_ros.nodes.params import declare_policy_params, read_policy_params
from vla_ros.nodes.sensor_inputs import SensorInputs
from vla_ros.observing.matching import match_policy
from vla_ros.policies.processor import load_processor
from vla_ros.robot import RobotConfig, read_robot_file
from vla_ros.ros import qos
from vla_ros.ros.clock import NS_PER_S, StampMap, steady_now_ns
from vla_ros.ros.managed import ManagedNode, run_managed
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.ros.problems import Problems
from vla_ros.ros.reports import diagnostics, distribution_values, full_name, over_budget, status
from vla_ros.ros.robot_description import RobotDescription
from vla_ros.ros.statistics import Distribution
from vla_ros.ros.ticker import Ticker
from vla_ros.runtime.loop import ESTOP_LATCHED, ControlLoop, LoopSettings, Tick
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.types import Answer, Mode

DIAGNOSTICS_PERIOD_S = 1.0
MAX_PERIODS = 1.5
MAX_CLOCK_JUMP_S = 1.0
MIN_BACKWARD_JUMP_S = 0.001
# Python's own 5 ms would let the processor's thread delay the ticker by a quarter of its period.
GIL_SWITCH_INTERVAL_S = 0.0005


class PolicyNode(ManagedNode):
    """Exists from the first moment, so that it can say what is wrong; has a robot from *configure* on."""

    def __init__(self) -> None:
        super().__init__("vla_policy")
        declare_policy_params(self)
        # One lock around every call of the loop: the ticker, the worker and the services share it.
        self._lock = threading.Lock()
        self._problems = Problems(self.get_logger())
        self._stamps = StampMap(self.get_clock())
        self._loop: ControlLoop | None = None
        self._description: RobotDescription | None = None
        self._sensors: SensorInputs | None = None
        self._human: HumanInputs | None = None
        self._is_estop_pressed = self._is_estop_latched = False
        self._link: ModelLink | None = None
        self._outputs: CommandOutputs | None = None
        self._ticker: Ticker | None = None
        self._published_mode: Mode | None = None
        self._last_publish_ns: int | None = None
        self._task = ""
        self._budgets_ms: Mapping[str, float] = {}
        self._reset_statistics()
        self._mode_publisher = self.create_publisher(String, "~/mode", qos.LATCHED)
        self._chunk_publisher = self.create_publisher(JointTrajectory, "~/chunk", qos.REPORT)
        self._trace_publisher = self.create_publisher(String, "~/trace", qos.REPORT)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self.create_subscription(String, "~/task", self._on_task, qos.LATCHED)
        self.create_service(Trigger, "~/engage", self._on_engage)
        self.create_service(Trigger, "~/takeover", self._on_takeover)
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.create_service(Trigger, "~/reset_estop", self._on_reset_estop)
        threshold = JumpThreshold(
            min_forward=Duration(seconds=MAX_CLOCK_JUMP_S),
            min_backward=Duration(seconds=-MIN_BACKWARD_JUMP_S),
            on_clock_change=False,
        )
        self._jump_handle = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)
        self.create_steady_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def configure(self) -> None:
        params = read_policy_params(self)
        processor = load_processor(params.policy_dir)
        robot = self._load_robot(params.robot_file)
        self._robot = match_policy(robot, processor.joint_names, processor.camera_names, processor.action_dim)
        rate_hz = params.control_rate_hz or self._robot.control_rate_hz
        self._settings = LoopSettings(
            control_rate_hz=rate_hz,
            result_timeout_s=params.result_timeout_s,
            strategy=params.strategy,
            teleop=params.teleop,
            handoff_ramp_s=params.handoff_ramp_s,
            shadow=params.shadow,
        )
        self._period_ns = round(NS_PER_S / rate_hz)
        self._realtime_priority = params.realtime_priority
        self._budgets_ms = {"control_period": MAX_PERIODS * 1e3 / rate_hz, **params.budgets_ms}
        self._task = self._task or params.task
        self._reset_statistics()
        self._outputs = CommandOutputs(self, self._robot, self._period_ns / NS_PER_S)
        self._link = ModelLink(self, processor, self._lock, self._problems, self._publish_chunk, params.model_timeout_s)
        self._sensors = SensorInputs(self, self._robot, self._stamps, self._problems, self._link.wake)
        self._human = HumanInputs(
            self,
            self._robot,
            self._stamps,
            self._problems,
            on_teleop=self._on_teleop,
            on_estop=self._on_estop,
            on_takeover=self._takeover,
            takeover_button=params.takeover_button,
        )
        self._link.start()
        self._sensors.start()
        self._human.start()
        self._publish_mode(Mode.HOLD)

    def activate(self) -> None:
        assert self._sensors is not None and self._link is not None
        # A fresh loop: whatever was seen and commanded before may be of another pose.
        loop = ControlLoop(self._robot, self._settings)
        loop.sensors.task = self._task
        # But the emergency stop: what latched it is over only when somebody says so.
        loop.press_estop(self._is_estop_latched)
        loop.press_estop(self._is_estop_pressed)
        self._loop = loop
        self._sensors.sensors = loop.sensors
        self._link.attach(loop)
        self._last_publish_ns = None
        # What is loaded by now stays: the collector need not walk through it between two ticks.
        gc.collect()
        gc.freeze()
        self._ticker = Ticker(self._period_ns, self._tick, self._realtime_priority)
        self._ticker.start()
        if self._realtime_priority and not self._ticker.is_realtime:
            self.get_logger().info(
                f"the ticker runs at ordinary priority, {self._realtime_priority} is not permitted; on a busy machine "
                "give this user rtprio in /etc/security/limits.conf (in a container: --ulimit rtprio=99)"
            )

    def deactivate(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        if self._link is not None:
            self._link.attach(None)
        if self._sensors is not None:
            self._sensors.sensors = None
        self._loop = None
        self._publish_mode(Mode.HOLD)

    def cleanup(self) -> None:
        if self._description is not None:
            self._description.stop()
            self._description = None
        if self._link is not None:
            self._link.stop()
            self._link = None
        if self._sensors is not None:
            self._sensors.stop()
            self._sensors = None
        if self._human is not None:
            self._human.stop()
            self._human = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def _load_robot(self, path: Path) -> RobotConfig:
        file = read_robot_file(path)
        if not file.urdf_topic:
            return file.robot()
        self._description = RobotDescription(self, file)
        return self._description.wait()

    def _tick(self, deadline_ns: int) -> None:
        loop, link = self._loop, self._link
        if loop is None or link is None:
            return
        try:
            model_fault = link.fault()
            with self._lock:
                tick = loop.tick(deadline_ns, model_fault)
            self._publish_tick(loop, tick)
        except Exception:  # a bug must not leave the robot in motion
            self._problems.report("control", f"control failed: {traceback.format_exc()}")
            with self._lock:
                loop.hold("control failed, its traceback is in the log")

    def _publish_tick(self, loop: ControlLoop, tick: Tick) -> None:
        for event in tick.events:
            self.get_logger().info(event)
        # With every command, and before it: a recorded bag then says of each who drove.
        if tick.mode is not self._published_mode or tick.command is not None:
            self._publish_mode(tick.mode)
        if tick.ramp is None or tick.command is None:
            return
        assert self._outputs is not None
        self._outputs.publish(tick.ramp)
        now_ns = steady_now_ns()
        with self._lock:
            loop.sent(now_ns)
        if self._last_publish_ns is not None:
            self._period_ms.add((now_ns - self._last_publish_ns) * 1e-6)
        self._last_publish_ns = now_ns
        if tick.observation_age_ns is not None:
            self._age_ms.add(tick.observation_age_ns * 1e-6)
        if tick.command.reason:
            self._num_bounded += 1
            self._last_bound = tick.command.reason

    def _on_task(self, msg: String) -> None:
        self._task = msg.data.strip()
        if self._loop is not None:
            self._loop.sensors.task = self._task

    def _on_engage(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, "engage", self._engage(), "the policy drives")

    def _engage(self) -> str:
        """The reason for a refusal; empty where the policy drives now."""
        if not self.is_active or self._loop is None or self._link is None:
            return self._not_active()
        refusal = self._link.refusal()
        if not refusal:
            with self._lock:
                refusal = self._loop.engage(steady_now_ns())
            # Why a sensor is stale is often that what it sends was refused.
            causes = [line for source, line in self._problems.current().items() if refusal and source in refusal]
            refusal = "; ".join([refusal, *causes])
        if not refusal:
            self._link.wake()
        return refusal

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        refusal = ""
        if self._loop is not None:
            with self._lock:
                self._loop.hold("asked to hold", is_fault=False)
                if self._loop.mode is Mode.ESTOP:
                    refusal = ESTOP_LATCHED
        return self._answer(response, "hold", refusal, "HOLD")

    def _on_takeover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, "takeover", self._takeover(), "the human drives")

    def _on_reset_estop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        refusal = self._not_active()
        if not refusal and self._loop is not None:
            with self._lock:
                refusal = self._loop.reset_estop()
                self._is_estop_latched = self._is_estop_latched and bool(refusal)
        return self._answer(response, "reset_estop", refusal, "HOLD")

    def _answer(self, response: Trigger.Response, what: str, refusal: str, done: str) -> Trigger.Response:
        response.success, response.message = not refusal, refusal or done
        if refusal:
            self.get_logger().warning(f"{what} refused: {refusal}")
        return response

    def _takeover(self) -> str:
        """The reason for a refusal; empty where the human drives now."""
        loop = self._loop
        if loop is None or not self.is_active:
            return self._not_active()
        with self._lock:
            return loop.takeover(steady_now_ns())

    def _on_teleop(self, trajectory: TeleopTrajectory) -> str:
        loop, link = self._loop, self._link
        if loop is None or link is None:
            return self._not_active()
        with self._lock:
            refusal = loop.offer_teleop(trajectory, steady_now_ns())
        link.wake()
        return refusal

    def _on_estop(self, is_pressed: bool) -> None:
        self._is_estop_pressed = is_pressed
        self._is_estop_latched = self._is_estop_latched or is_pressed
        if self._loop is not None:
            with self._lock:
                self._loop.press_estop(is_pressed)

    def _on_time_jump(self, jump: TimeJump) -> None:
        self._stamps.forget()
        loop = self._loop
        if loop is not None:
            with self._lock:
                loop.clock_jumped(f"ROS time jumped by {jump.delta.nanoseconds / NS_PER_S:+.2f} s", steady_now_ns())

    def _not_active(self) -> str:
        if self.is_active and self._loop is not None:
            return ""
        return f"vla_policy is not active{': ' + self.failure if self.failure else ''}"

    def _publish_mode(self, mode: Mode) -> None:
        self._published_mode = mode
        self._mode_publisher.publish(String(data=mode.value))

    def _publish_chunk(self, answer: Answer) -> None:
        chunk, observation = answer.chunk, answer.observation
        asked_ns, taken_ns = map(self._stamps.to_ros_ns, (answer.asked_ns, answer.arrived_ns))
        positions = tuple(observation.joint_positions.tolist())
        trace = Trace(observation.headers_ns, positions, observation.task, asked_ns, taken_ns)
        self._trace_publisher.publish(String(data=encode_trace(trace)))
        times_s = chunk.chunk_dt_s * (chunk.offset + np.arange(chunk.horizon))
        trajectory = Trajectory(observation.header_ns, times_s, chunk.positions, None)
        msg = JointTrajectory()
        fill_trajectory(msg, trajectory, self._robot.joint_names, JointTrajectoryPoint)
        self._chunk_publisher.publish(msg)

    def _reset_statistics(self) -> None:
        self._period_ms, self._age_ms = Distribution(), Distribution()
        self._num_bounded, self._last_bound = 0, ""

    def _publish_diagnostics(self) -> None:
        if self._description is not None and self._description.change:
            self._problems.report("robot description", self._description.change)
        loop, problems = self._loop, self._problems.current()
        mode, why = (loop.mode, loop.why) if loop is not None else (Mode.HOLD, self.failure or "not active")
        values = {"mode": mode.value, "why": why}
        fault = loop.fault if loop is not None else None
        if fault is not None:
            values["fault"] = fault.line
            if fault.age_s is not None:
                values |= {"fault_age_s": f"{fault.age_s:.3f}", "fault_limit_s": f"{fault.limit_s:g}"}
        if loop is not None:
            values["late_chunks"] = str(loop.num_late_chunks)
        if self._ticker is not None:
            values["ticker"] = "real-time" if self._ticker.is_realtime else "ordinary priority"
        summary = self._period_ms.summary()
        if summary is not None:
            values["control_rate_hz"] = f"{1e3 / summary.mean:.3f}"
        values |= distribution_values("control_period_ms", self._period_ms)
        stages_ms = self._link.stages_ms if self._link is not None else {}
        for stage, distribution in stages_ms.items():
            values |= distribution_values(f"{stage}_ms", distribution)
        values |= distribution_values("observation_age_ms", self._age_ms)
        over = over_budget({**stages_ms, "control_period": self._period_ms}, self._budgets_ms)
        values |= {"bounded_commands": str(self._num_bounded), "last_bound": self._last_bound}
        values |= {f"problem: {source}": line for source, line in problems.items()}
        if loop is None and self.failure:
            level = DiagnosticStatus.ERROR
        elif problems or over or (loop is not None and (loop.is_faulty or loop.recovering_from is not None)):
            level = DiagnosticStatus.WARN
        else:
            level = DiagnosticStatus.OK
        braking = [f"braking: {loop.recovering_from.line}"] if loop is not None and loop.recovering_from else []
        message = "; ".join([f"{mode.value}: {why}", *braking, *problems.values(), *over])
        stamp = self.get_clock().now().to_msg()
        report = status(f"{full_name(self)}: control", level, message, values)
        self._diagnostics_publisher.publish(diagnostics(stamp, [report]))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)
    return run_managed(PolicyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
