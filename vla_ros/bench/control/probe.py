"""The control bench's own ROS node: a human who takes over, and a record of everything that the policy node says."""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.bench.control.idle_ticker import idle_robot
from vla_ros.bench.control.judge import HeardChunk, HeardCommand
from vla_ros.demo.client import DemoClient
from vla_ros.messages.trajectories import Trajectory, fill_trajectory, parse_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import make_publisher, subscribe
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import EVERYTHING
from vla_ros.types import ActionChunk


class ControlProbe(DemoClient):
    """Keeps commands, modes and chunks with the middleware's own times, ns: this process may be late in looking.

    ``model_ready_ns`` is when a model node was last heard that is ready, 0 where the newest is not.
    """

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self._heard: list[HeardCommand] = []
        self._modes: list[tuple[int, str]] = []
        self.chunks: list[HeardChunk] = []
        self.idle: list[HeardCommand] = []
        self.model_ready_ns = 0
        self._teleop = make_publisher(self, topics.TELEOP)
        CommandInputs(self, idle_robot(robot), self._on_idle_command, EVERYTHING)
        subscribe(self, topics.STATUS, self._on_status)

    def teleop(self, positions: np.ndarray) -> int:
        """Publish a set point for one control period from now; returns when, ns."""
        msg = JointTrajectory()
        point = Trajectory(0, np.array([1 / self.robot.control_rate_hz]), positions[None], None)
        fill_trajectory(msg, point, self.robot.joint_names, JointTrajectoryPoint)
        sent_ns = time.time_ns()
        self._teleop.publish(msg)
        return sent_ns

    def commands(self) -> list[HeardCommand]:
        """Every command so far; its mode is the one sent last before it."""
        with self._changed:
            heard, modes = sorted(self._heard, key=attrgetter("sent_ns")), [(0, ""), *sorted(self._modes)]
        since = [bisect(modes, command.sent_ns, key=itemgetter(0)) - 1 for command in heard]
        return [replace(command, mode=modes[index][1]) for command, index in zip(heard, since, strict=True)]

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        self._heard.append(HeardCommand.of(trajectory, info))
        super()._on_command(trajectory, info)

    def _on_idle_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        self.idle.append(HeardCommand.of(trajectory, info))

    def _on_mode(self, msg: String, info: dict[str, Any]) -> None:
        self._modes.append((info["source_timestamp"], msg.data))
        super()._on_mode(msg, info)

    def _on_chunk(self, msg: JointTrajectory, info: dict[str, Any]) -> None:
        trajectory = parse_trajectory(msg, self.robot.joint_names)
        times_s = trajectory.times_s
        dt_s = float(times_s[1] - times_s[0]) if len(times_s) > 1 else 1.0
        chunk = ActionChunk(trajectory.stamp_ns, dt_s, float(times_s[0]) / dt_s, trajectory.positions)
        self.chunks.append(HeardChunk(info["received_timestamp"], chunk))
        super()._on_chunk(msg, info)

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self.model_ready_ns = time.time_ns() if msg.level == DiagnosticStatus.OK else 0
