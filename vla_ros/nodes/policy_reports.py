"""What the policy node says of itself: who drives and why, what is wrong and how long things take, on ``/diagnostics``;
every chunk that is followed, with what went into it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.messages.trace import Trace, encode_trace
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.nodes.control import Control
from vla_ros.nodes.params import CONTROL_PERIOD
from vla_ros.ros.clock import StampMap
from vla_ros.ros.endpoints import make_publisher, make_steady_timer
from vla_ros.ros.managed import ManagedNode
from vla_ros.ros.problems import Problems
from vla_ros.ros.reports import diagnostics, distribution_values, make_status, over_budget
from vla_ros.ros.robot_description import RobotDescription
from vla_ros.ros.statistics import Distribution
from vla_ros.ros.ticker import Ticker
from vla_ros.runtime.loop import ControlLoop, Tick
from vla_ros.types import Answer
from vla_ros.units import MS_PER_NS

PERIOD_S = 1.0
MAX_PERIODS = 1.5


class PolicyDiagnostics:
    """Reports once a second; ``ticker`` and ``description`` are the node's, None where it has none."""

    def __init__(self, node: ManagedNode, control: Control, problems: Problems) -> None:
        self.ticker: Ticker | None = None
        self.description: RobotDescription | None = None
        self._node = node
        self._control = control
        self._problems = problems
        self._publisher = make_publisher(node, topics.DIAGNOSTICS)
        self.restart(0.0, {})
        make_steady_timer(node, PERIOD_S, self._publish)

    def restart(self, period_ms: float, budgets_ms: Mapping[str, float]) -> None:
        """Start counting again; ``budgets_ms`` is what a stage may take at p99, by default the control period
        ``MAX_PERIODS`` times ``period_ms``."""
        self._budgets_ms = {CONTROL_PERIOD: MAX_PERIODS * period_ms, **budgets_ms}
        self._period_ms, self._age_ms = Distribution(), Distribution()
        self._num_bounded, self._last_bound = 0, ""
        self.pause()

    def pause(self) -> None:
        """The time until the next command is not a control period."""
        self._last_sent_ns: int | None = None

    def sent(self, tick: Tick, now_ns: int) -> None:
        """The command of ``tick`` went out at ``now_ns``."""
        if self._last_sent_ns is not None:
            self._period_ms.add((now_ns - self._last_sent_ns) * MS_PER_NS)
        self._last_sent_ns = now_ns
        if tick.observation_age_ns is not None:
            self._age_ms.add(tick.observation_age_ns * MS_PER_NS)
        if tick.command is not None and tick.command.reason:
            self._num_bounded += 1
            self._last_bound = tick.command.reason

    def _publish(self) -> None:
        if self.description is not None and self.description.change:
            self._problems.report("robot description", self.description.change)
        loop, link, failure = self._control.loop, self._control.link, self._node.failure
        problems = self._problems.current()
        stages_ms = link.stages_ms if link is not None else {}
        over = over_budget({**stages_ms, CONTROL_PERIOD: self._period_ms}, self._budgets_ms)
        mode, why = (loop.mode, loop.why) if loop is not None else (self._control.rest, failure or "not active")
        braking = loop.recovering_from if loop is not None else None
        if loop is None and failure:
            level = DiagnosticStatus.ERROR
        elif problems or over or braking is not None or (loop is not None and loop.is_faulty):
            level = DiagnosticStatus.WARN
        else:
            level = DiagnosticStatus.OK
        lines = [f"{mode.value}: {why}", *([f"braking: {braking.line}"] if braking is not None else [])]
        values = {"mode": mode.value, "why": why, **_loop_values(loop), **self._time_values(stages_ms)}
        values |= {"bounded_commands": str(self._num_bounded), "last_bound": self._last_bound}
        values |= {f"problem: {source}": line for source, line in problems.items()}
        # What led to the mode is not said twice.
        further = [line for line in problems.values() if line.rpartition(" refused: ")[2] not in why]
        message = "; ".join([*lines, *further, *over])
        status = make_status(self._node, "control", level, message, values)
        self._publisher.publish(diagnostics(self._node, status))

    def _time_values(self, stages_ms: Mapping[str, Distribution]) -> dict[str, str]:
        values = {}
        if self.ticker is not None:
            values["ticker"] = "real-time" if self.ticker.is_realtime else "ordinary priority"
        summary = self._period_ms.summary()
        if summary is not None:
            values["control_rate_hz"] = f"{1e3 / summary.mean:.3f}"
        for name, distribution in (
            (CONTROL_PERIOD, self._period_ms),
            *stages_ms.items(),
            ("observation_age", self._age_ms),
        ):
            values |= distribution_values(f"{name}_ms", distribution)
        return values | {f"{stage}_ms_budget": f"{budget_ms:g}" for stage, budget_ms in self._budgets_ms.items()}


class ChunkReports:
    """The policy node's topics ``chunk`` and ``trace``."""

    def __init__(self, node: Node, stamps: StampMap) -> None:
        self._stamps = stamps
        self._chunks = make_publisher(node, topics.CHUNK.private)
        self._traces = make_publisher(node, topics.TRACE.private)

    def publish(self, answer: Answer, joint_names: tuple[str, ...]) -> None:
        chunk, observation = answer.chunk, answer.observation
        asked_ns, taken_ns = map(self._stamps.to_ros_ns, (answer.asked_ns, answer.arrived_ns))
        positions = tuple(observation.joint_positions.tolist())
        trace = Trace(observation.headers_ns, positions, observation.task, asked_ns, taken_ns)
        self._traces.publish(String(data=encode_trace(trace)))
        times_s = chunk.chunk_dt_s * (chunk.offset + np.arange(chunk.horizon))
        msg = JointTrajectory()
        trajectory = Trajectory(observation.header_ns, times_s, chunk.positions, None)
        fill_trajectory(msg, trajectory, joint_names, JointTrajectoryPoint)
        self._chunks.publish(msg)


def _loop_values(loop: ControlLoop | None) -> dict[str, str]:
    if loop is None:
        return {}
    values = {}
    if loop.fault is not None:
        values["fault"] = loop.fault.line
        if loop.fault.age_s is not None:
            values |= {"fault_age_s": f"{loop.fault.age_s:.3f}", "fault_limit_s": f"{loop.fault.limit_s:g}"}
    return {**values, "late_chunks": str(loop.num_late_chunks)}
