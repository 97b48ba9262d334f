"""``vla_policy``: the robot side. Sensors in, bounded commands out at a steady rate; never waits for the model."""

from __future__ import annotations

import gc
import sys
import threading
import traceback

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.nodes import qos
from vla_ros.nodes.clock import NS_PER_S, steady_now_ns
from vla_ros.nodes.command_outputs import CommandOutputs
from vla_ros.nodes.managed import ManagedNode, run_managed
from vla_ros.nodes.model_link import ModelLink
from vla_ros.nodes.params import declare_policy_params, read_policy_params
from vla_ros.nodes.problems import Problems
from vla_ros.nodes.reports import diagnostics, distribution_values, status
from vla_ros.nodes.sensor_inputs import SensorInputs
from vla_ros.nodes.statistics import Distribution
from vla_ros.nodes.ticker import Ticker
from vla_ros.policies.processor import load_processor
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.runtime.handoff import Mode
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.runtime.match import match_policy
from vla_ros.runtime.schedule import LatestScheduler
from vla_ros.types import ActionChunk

DIAGNOSTICS_PERIOD_S = 1.0
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
        self._loop: ControlLoop | None = None
        self._sensors: SensorInputs | None = None
        self._link: ModelLink | None = None
        self._outputs: CommandOutputs | None = None
        self._ticker: Ticker | None = None
        self._published_mode: Mode | None = None
        self._last_publish_ns: int | None = None
        self._task = ""
        self._reset_statistics()
        self._mode_publisher = self.create_publisher(String, "~/mode", qos.LATCHED)
        self._chunk_publisher = self.create_publisher(JointTrajectory, "~/chunk", qos.REPORT)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self.create_subscription(String, "~/task", self._on_task, qos.LATCHED)
        self.create_service(Trigger, "~/engage", self._on_engage)
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def configure(self) -> None:
        params = read_policy_params(self)
        processor = load_processor(params.policy_dir)
        self._robot = match_policy(
            load_robot(params.robot_file), processor.joint_names, processor.camera_names, processor.action_dim
        )
        rate_hz = params.control_rate_hz or self._robot.control_rate_hz
        self._settings = LoopSettings(rate_hz, params.result_timeout_s)
        self._period_ns = round(NS_PER_S / rate_hz)
        self._realtime_priority = params.realtime_priority
        self._reset_statistics()
        self._outputs = CommandOutputs(self, self._robot, self._period_ns / NS_PER_S)
        self._link = ModelLink(self, processor, self._lock, self._problems, self._publish_chunk)
        self._sensors = SensorInputs(self, self._robot, self._problems, self._link.wake)
        self._link.start()
        self._sensors.start()
        self._publish_mode(Mode.HOLD)

    def activate(self) -> None:
        assert self._sensors is not None and self._link is not None
        # A fresh loop: whatever was seen and commanded before may be of another pose.
        self._loop = loop = ControlLoop(self._robot, self._settings, LatestScheduler())
        loop.sensors.task = self._task
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
        if self._link is not None:
            self._link.stop()
            self._link = None
        if self._sensors is not None:
            self._sensors.stop()
            self._sensors = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def _tick(self, deadline_ns: int) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            with self._lock:
                tick = loop.tick(deadline_ns)
            self._publish_tick(tick)
        except Exception:  # a bug must not leave the robot in motion
            self._problems.report("control", f"control failed: {traceback.format_exc()}")
            with self._lock:
                loop.hold("control failed, its traceback is in the log")

    def _publish_tick(self, tick: Tick) -> None:
        for event in tick.events:
            self.get_logger().info(event)
        if tick.mode is not self._published_mode:
            self._publish_mode(tick.mode)
        if tick.ramp is None or tick.command is None:
            return
        assert self._outputs is not None
        self._outputs.publish(tick.ramp)
        now_ns = steady_now_ns()
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
        response.message = self._engage()
        response.success = not response.message
        if response.success:
            response.message = "the policy drives"
        else:
            self.get_logger().warning(f"engage refused: {response.message}")
        return response

    def _engage(self) -> str:
        """The reason for a refusal; empty where the policy drives now."""
        if not self.is_active or self._loop is None or self._link is None:
            return f"vla_policy is not active{': ' + self.failure if self.failure else ''}"
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
        if self._loop is not None:
            with self._lock:
                self._loop.hold("asked to hold", is_fault=False)
        response.success = True
        response.message = "HOLD"
        return response

    def _publish_mode(self, mode: Mode) -> None:
        self._published_mode = mode
        self._mode_publisher.publish(String(data=mode.value))

    def _publish_chunk(self, chunk: ActionChunk) -> None:
        assert self._sensors is not None
        times_s = chunk.chunk_dt_s * (chunk.offset + np.arange(chunk.horizon))
        trajectory = Trajectory(self._sensors.ros_stamp_ns(chunk.stamp_ns), times_s, chunk.positions, None)
        msg = JointTrajectory()
        fill_trajectory(msg, trajectory, self._robot.joint_names, JointTrajectoryPoint)
        self._chunk_publisher.publish(msg)

    def _reset_statistics(self) -> None:
        self._period_ms, self._age_ms = Distribution(), Distribution()
        self._num_bounded, self._last_bound = 0, ""

    def _publish_diagnostics(self) -> None:
        loop, problems = self._loop, self._problems.current()
        mode, why = (loop.mode, loop.why) if loop is not None else (Mode.HOLD, self.failure or "not active")
        values = {"mode": mode.value, "why": why}
        if self._ticker is not None:
            values["ticker"] = "real-time" if self._ticker.is_realtime else "ordinary priority"
        summary = self._period_ms.summary()
        if summary is not None:
            values["control_rate_hz"] = f"{1e3 / summary.mean:.3f}"
        values |= distribution_values("control_period_ms", self._period_ms)
        if self._link is not None:
            values |= distribution_values("inference_ms", self._link.inference_ms)
        values |= distribution_values("observation_age_ms", self._age_ms)
        values |= {"bounded_commands": str(self._num_bounded), "last_bound": self._last_bound}
        values |= {f"problem: {source}": line for source, line in problems.items()}
        if loop is None and self.failure:
            level = DiagnosticStatus.ERROR
        elif problems or (loop is not None and loop.is_faulty):
            level = DiagnosticStatus.WARN
        else:
            level = DiagnosticStatus.OK
        message = "; ".join([f"{mode.value}: {why}", *problems.values()])
        stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(diagnostics(stamp, [status("vla_policy: control", level, message, values)]))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)
    return run_managed(PolicyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
