"""``vla_policy``: the robot side. Sensors in, bounded commands out at a steady rate; never waits for the model."""

from __future__ import annotations

import gc
import sys
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from std_msgs.msg import String

from vla_ros import topics
from vla_ros.nodes.control import Control
from vla_ros.nodes.inputs import HumanInputs, SensorInputs
from vla_ros.nodes.model_link import ModelLink
from vla_ros.nodes.params import NO_POLICY, PolicyNodeParams
from vla_ros.nodes.policy_reports import ChunkReports, PolicyDiagnostics
from vla_ros.observing.observe import match_policy
from vla_ros.policies.files import load_processor
from vla_ros.robot import RobotConfig, read_robot_file
from vla_ros.ros.clock import StampMap, steady_now_ns
from vla_ros.ros.declare import declare, guard, read
from vla_ros.ros.endpoints import hear, make_publisher, make_steady_timer
from vla_ros.ros.managed import ManagedNode, run_managed
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.ros.problems import Problems
from vla_ros.ros.rivals import LOOK_PERIOD_S, Rivals
from vla_ros.ros.robot_description import RobotDescription
from vla_ros.ros.ticker import Ticker
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.share import policy_dir, robot_file
from vla_ros.types import Mode, check_task
from vla_ros.units import NS_PER_S
from vla_ros.wire import read_link_key

if TYPE_CHECKING:
    from vla_ros.policies.processor import PolicyProcessor

MAX_CLOCK_JUMP_S = 1.0
MIN_BACKWARD_JUMP_S = 0.001
# Python's own 5 ms would let the processor's thread delay the ticker by a quarter of its period.
GIL_SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True)
class _Configured:
    """What *configure* made."""

    robot: RobotConfig
    settings: LoopSettings
    period_ns: int
    realtime_priority: int
    link: ModelLink | None
    sensors: SensorInputs
    human: HumanInputs
    outputs: CommandOutputs


class PolicyNode(ManagedNode):
    """Exists from the first moment, so that it can say what is wrong; has a robot from *configure* on."""

    def __init__(self) -> None:
        super().__init__(topics.POLICY_NODE)
        declare(self, PolicyNodeParams)
        guard(self, PolicyNodeParams, lambda: self.is_configured)
        self._problems = Problems(self.get_logger())
        self._stamps = StampMap(self.get_clock())
        self._rivals = Rivals(self, self._problems)
        self._control = Control(self._problems, self._rivals, lambda: self.failure)
        self._configured: _Configured | None = None
        self._parts = ExitStack()
        self._ticker: Ticker | None = None
        self._published_mode: Mode | None = None
        self._tasks: Publisher | None = None
        self._told_task = ""
        self._modes = make_publisher(self, topics.MODE.private)
        self._chunks = ChunkReports(self, self._stamps)
        self._diagnostics = PolicyDiagnostics(self, self._control, self._problems)
        self._refuse_task = self._problems.refusing(topics.TASK)
        hear(self, topics.TASK.private, self._on_task, self._refuse_task)
        make_steady_timer(self, LOOK_PERIOD_S, lambda: self._rivals.look(*self._own_topics()))
        self._control.offer_services(self)
        threshold = JumpThreshold(
            min_forward=Duration(seconds=MAX_CLOCK_JUMP_S),
            min_backward=Duration(seconds=-MIN_BACKWARD_JUMP_S),
            on_clock_change=False,
        )
        self._jump_handle = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)

    def configure(self) -> None:
        params = read(self, PolicyNodeParams)
        processor = None if params.policy == NO_POLICY else load_processor(policy_dir(params.policy))
        robot = self._load_robot(robot_file(params.robot))
        if processor is not None:
            robot = match_policy(robot, processor.joint_names, processor.camera_names)
            processor.bind(robot)
        settings = LoopSettings(
            control_rate_hz=params.control_rate_hz or robot.control_rate_hz,
            result_timeout_s=params.result_timeout_s,
            strategy=params.strategy,
            teleop=params.teleop,
            handoff_ramp_s=params.handoff_ramp_s,
            shadow=params.shadow,
            is_followed=params.is_followed,
        )
        self._control.task = self._control.task or params.task.strip()
        self._tell_task()
        self._diagnostics.restart(1e3 / settings.control_rate_hz, params.stage_budgets_ms)
        period_ns = round(NS_PER_S / settings.control_rate_hz)
        link = None if processor is None else self._make_link(params, robot, processor)
        wake = (lambda: None) if link is None else link.wake
        sensors = SensorInputs(self, robot, self._stamps, self._problems, wake, self._rivals)
        self._parts.callback(sensors.stop)
        human = HumanInputs(self, robot, self._stamps, self._problems, self._control, params)
        self._parts.callback(human.stop)
        # Last, for its publishers are this node's own, which only the thread that spins it may destroy: autostart,
        # where something fails, is another.
        outputs = CommandOutputs(self, robot, period_ns / NS_PER_S, self._problems.report)
        self._parts.callback(outputs.destroy)
        for part in (outputs, link, sensors, human):
            if part is not None:
                part.start()
        self._configured = _Configured(
            robot, settings, period_ns, params.realtime_priority, link, sensors, human, outputs
        )
        self._publish_mode(self._control.rest)

    def activate(self) -> None:
        configured = self._configured
        assert configured is not None
        self._rivals.check(*self._own_topics())
        loop = ControlLoop(configured.robot, configured.settings)
        self._control.begin(loop, configured.link, configured.outputs.refusal)
        configured.sensors.sensors = loop.sensors
        self._diagnostics.pause()
        # What is loaded by now stays: the collector need not walk through it between two ticks. But what the last
        # activation made does not.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        priority = configured.realtime_priority
        self._ticker = Ticker(configured.period_ns, self._tick, priority)
        self._ticker.start()
        self._diagnostics.ticker = self._ticker
        if priority and not self._ticker.is_realtime:
            self.get_logger().info(
                f"the ticker runs at ordinary priority, {priority} is not permitted; on a busy machine give this user "
                "rtprio in /etc/security/limits.conf (in a container: --ulimit rtprio=99)"
            )

    def deactivate(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = self._diagnostics.ticker = None
        if self._configured is not None:
            self._configured.sensors.sensors = None
            self._configured.outputs.halt()
        self._control.end()
        self._publish_mode(self._control.rest)

    def cleanup(self) -> None:
        self._parts.close()
        self._configured = self._diagnostics.description = None
        gc.unfreeze()  # or what refers to itself would never be collected

    def _make_link(self, params: PolicyNodeParams, robot: RobotConfig, processor: PolicyProcessor) -> ModelLink:
        link = ModelLink(
            self,
            processor,
            self._control.lock,
            self._problems,
            lambda answer: self._chunks.publish(answer, robot.joint_names),
            params.model_timeout_s,
            read_link_key(params.link_key_file),
        )
        self._parts.callback(link.stop)
        return link

    def _load_robot(self, path: Path) -> RobotConfig:
        file = read_robot_file(path)
        if not file.urdf_topic:
            return file.robot()
        self._diagnostics.description = RobotDescription(self, file)
        self._parts.callback(self._diagnostics.description.stop)
        return self._diagnostics.description.wait()

    def _tick(self, deadline_ns: int) -> None:
        loop, link = self._control.loop, self._control.link
        if loop is None:
            return
        try:
            model_fault = None if link is None else link.fault()
            assert self._configured is not None
            self._configured.human.watch_stop()
            with self._control.lock:
                self._control.look(loop)
                tick = loop.tick(deadline_ns, model_fault)
            self._publish_tick(loop, tick, deadline_ns)
        except Exception:  # a bug must not leave the robot in motion
            self._problems.report("control", f"control failed: {traceback.format_exc()}")
            with self._control.lock:
                loop.hold("control failed, its traceback is in the log")

    def _publish_tick(self, loop: ControlLoop, tick: Tick, deadline_ns: int) -> None:
        # With every command, and before it: a recorded bag then says of each who drove.
        if tick.mode is not self._published_mode or tick.command is not None:
            self._publish_mode(tick.mode)
        if tick.ramp is None:
            self._diagnostics.pause()
        else:
            assert self._configured is not None
            self._configured.outputs.publish(tick.ramp, self._stamps.to_ros_ns(deadline_ns))
            now_ns = steady_now_ns()
            with self._control.lock:
                loop.sent(now_ns)
            self._diagnostics.sent(tick, now_ns)
        for event in tick.events:  # behind the command, a human's first above all: a log takes longer than a tick
            self.get_logger().info(event)

    def _publish_mode(self, mode: Mode) -> None:
        self._published_mode = mode
        self._modes.publish(String(data=mode.value))

    def _on_task(self, msg: String) -> None:
        try:
            check_task(msg.data)
        except ValueError as error:
            return self._refuse_task(error)
        self._control.set_task(msg.data)
        if self._tasks is not None:  # what is latched there must be the one in force
            self._tell_task()

    def _tell_task(self) -> None:
        """Publish the instruction where it is, or was, a parameter: recorders and late listeners learn of it, too."""
        task = self._control.task
        if task and task != self._told_task:
            self._tasks = self._tasks or make_publisher(self, topics.TASK.private)
            self._told_task = task
            self._tasks.publish(String(data=task))

    def _own_topics(self) -> tuple[str, ...]:
        """What nobody else may publish."""
        return (self._modes.topic_name, *(() if self._configured is None else self._configured.outputs.topics))

    def _on_time_jump(self, jump: TimeJump) -> None:
        self._stamps.forget()
        self._control.clock_jumped(jump.delta.nanoseconds / NS_PER_S)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)
    return run_managed(PolicyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
