"""What the page's node hears of a robot beside its joints and its mode: commands, chunks, traces, reports. Callbacks
keep what came, nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.messages.trace import decode_trace
from vla_ros.messages.trajectories import Trajectory, parse_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import hear, subscribe
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import WATCH
from vla_ros.strict import one_line
from vla_ros.units import MS_PER_NS, NS_PER_S
from vla_ros.view.board import Board, stages_of

SILENT_S = 3.0
MAX_CHUNK_POINTS = 100


class Hearing:
    """What came last. ``command`` is the newest target ``[num_joints]``, ``period_ms`` the longest time between two
    commands since it was last looked at, ``chunk`` the page's message on the newest chunk, ``observed_ns`` when what
    that answers was seen (ROS time), ``answer_ms`` how long the model took to answer; None before there is one."""

    def __init__(self, node: Node, robot: RobotConfig, board: Board) -> None:
        self._node, self._robot, self._board = node, robot, board
        self.command: np.ndarray | None = None
        self.period_ms: float | None = None
        self.chunk: str | None = None
        self.observed_ns: int | None = None
        self.answer_ms: float | None = None
        self._sent_ns: int | None = None
        self._began_s = time.monotonic()
        self._reported_s: float | None = None
        self._unreadable: dict[str, str] = {}
        space = node.get_namespace().strip("/")
        prefix = f"{space}/" if space else ""
        self._policy_status = f"{prefix}{topics.POLICY_NODE}:"
        hear(node, topics.TASK, self._on_task, lambda why: board.note(topics.TASK.name, f"refused: {why}"))
        subscribe(node, topics.TRACE, self._on_trace, WATCH)
        subscribe(node, topics.CHUNK, self._on_chunk, WATCH)
        subscribe(node, topics.STATUS, self._on_status, WATCH)
        subscribe(node, topics.DIAGNOSTICS, self._on_diagnostics, WATCH)
        CommandInputs(node, robot, self._on_command, WATCH, lambda why: self._refuse("command", why))

    @property
    def has_gone(self) -> bool:
        """Whether a policy node that was heard is heard no more: its mode is then what it was, not what it is."""
        return self._reported_s is not None and time.monotonic() - self._reported_s > SILENT_S

    def faults(self) -> dict[str, str]:
        """What is wrong with what is heard, by what it is about."""
        lines = dict(self._unreadable)
        silent_s = time.monotonic() - (self._began_s if self._reported_s is None else self._reported_s)
        if silent_s > SILENT_S:
            lines["policy node"] = f"{topics.POLICY_NODE} is silent for {silent_s:.0f} s; does policy_node run?"
        return lines

    def _refuse(self, what: str, why: object) -> None:
        self._unreadable[what] = f"{what} cannot be read: {one_line(str(why))}"

    def _on_task(self, msg: String) -> None:
        self._board.set_task(msg.data.strip())

    def _on_trace(self, msg: String) -> None:
        try:
            trace = decode_trace(msg.data)
        except ValueError as error:
            return self._refuse("trace", error)
        self.answer_ms = (trace.taken_ns - trace.asked_ns) * MS_PER_NS
        if trace.task and trace.task != self._board.task:  # said before this node began
            self._board.set_task(trace.task)

    def _on_chunk(self, msg: JointTrajectory) -> None:
        try:
            chunk = parse_trajectory(msg, self._robot.joint_names)
        except ValueError as error:
            return self._refuse("chunk", error)
        self.observed_ns = chunk.stamp_ns
        step = -(-len(chunk.times_s) // MAX_CHUNK_POINTS)
        points = np.round(chunk.positions[::step], 4).tolist()
        stamp_s, last_s = chunk.stamp_ns / NS_PER_S, float(chunk.times_s[-1])
        self.chunk = json.dumps({"kind": "chunk", "stamp": stamp_s, "lasts": last_s, "points": points})

    def _on_command(self, trajectory: Trajectory, info: Mapping[str, Any]) -> None:
        sent_ns = info.get("source_timestamp") or time.time_ns()
        if self._sent_ns is not None:
            period_ms = (sent_ns - self._sent_ns) * MS_PER_NS
            self.period_ms = max(self.period_ms or 0.0, period_ms)
        self._sent_ns, self.command = sent_ns, trajectory.positions[0]

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self._board.model = msg.message
        is_wrong = msg.level != DiagnosticStatus.OK
        self._board.set_faults("model", {"model": f"{topics.MODEL_NODE}: {msg.message}"} if is_wrong else {})

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name.startswith(self._policy_status):
                self._reported_s = time.monotonic()
                self._read_policy(status)

    def _read_policy(self, status: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in status.values}
        board = self._board
        board.why = values.get("why", status.message)
        board.stages = stages_of(values.items())
        board.facts = {key: values[key] for key in ("control_rate_hz", "late_chunks", "ticker") if key in values}
        lines = {key: line for key, line in values.items() if key.startswith("problem: ")}
        if status.level != DiagnosticStatus.OK:
            if "fault" in values:
                lines["fault"] = values["fault"]
            elif not lines:  # what is over its budget, say; mode and reason are shown anyway
                known = f"{values.get('mode')}: {values.get('why')}"
                lines["status"] = status.message.removeprefix(known).lstrip("; ") or status.message
        board.set_faults("policy", {key: one_line(line) for key, line in lines.items()})
