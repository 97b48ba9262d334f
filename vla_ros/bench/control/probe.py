"""The control bench's own ROS node: a human who takes over, and a record of everything that the policy node says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.bench.control.idle_ticker import idle_robot
from vla_ros.bench.control.judge import HeardChunk, HeardCommand
from vla_ros.demo.client import DemoClient
from vla_ros.demo.stats import Recording
from vla_ros.messages.trajectories import Trajectory, fill_trajectory, parse_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import make_publisher, subscribe
from vla_ros.ros.outputs import CommandInputs
from vla_ros.types import ActionChunk

EVERYTHING = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)


class ControlProbe(DemoClient):
    """Keeps commands, modes and chunks with the middleware's own times, ns: this process may be late in looking."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self._robot = robot
        self._heard: list[tuple[Trajectory, dict[str, Any]]] = []
        self._modes: list[tuple[int, str]] = []
        self._chunks: list[tuple[int, JointTrajectory]] = []
        self.scenes_ns: list[int] = []
        self.idle_ns: list[int] = []
        self._model_ready_ns = 0
        self._teleop = make_publisher(self, topics.TELEOP)
        CommandInputs(self, robot, self._keep_command, EVERYTHING)
        CommandInputs(self, idle_robot(robot), self._keep_idle, EVERYTHING)
        subscribe(self, topics.MODE, self._keep_mode, EVERYTHING)
        subscribe(self, topics.CHUNK, self._keep_chunk, EVERYTHING)
        subscribe(self, topics.STATUS, self._keep_status)

    @property
    def num_chunks(self) -> int:
        return len(self._chunks)

    @property
    def is_teleop_heard(self) -> bool:
        """Whether the policy node listens to this human."""
        return self._teleop.get_subscription_count() > 0

    @property
    def last_positions(self) -> np.ndarray:
        """The newest command ``[num_joints]``."""
        return self._heard[-1][0].positions[0]

    @property
    def has_stopped(self) -> bool:
        """Whether the newest command keeps every joint still."""
        velocities = self._heard[-1][0].velocities if self._heard else None
        return velocities is not None and not velocities[0].any()

    def start_episode(self, seed: int, target: str | None, timeout_s: float = 5.0) -> Recording:
        """As the demo does it, remembering when: commands from before are of another pose."""
        self.scenes_ns.append(time.time_ns())
        return super().start_episode(seed, target, timeout_s)

    def model_works_since(self, since_ns: int) -> bool:
        """Whether a model node that is ready has been heard since."""
        return self._model_ready_ns > since_ns

    def teleop(self, positions: np.ndarray) -> int:
        """Publish a set point for one control period from now; returns when, ns."""
        msg = JointTrajectory()
        point = Trajectory(0, np.array([1 / self._robot.control_rate_hz]), positions[None], None)
        fill_trajectory(msg, point, self._robot.joint_names, JointTrajectoryPoint)
        sent_ns = time.time_ns()
        self._teleop.publish(msg)
        return sent_ns

    def commands(self) -> list[HeardCommand]:
        """Every command so far; its mode is the one sent last before it."""
        with self._changed:
            heard, modes = list(self._heard), sorted(self._modes)
        heard.sort(key=lambda item: item[1]["source_timestamp"])
        mode_ns = [sent_ns for sent_ns, _ in modes]
        commands = []
        for trajectory, info in heard:
            index = int(np.searchsorted(mode_ns, info["source_timestamp"], side="right")) - 1
            commands.append(HeardCommand.of(trajectory, info, modes[index][1] if index >= 0 else ""))
        return commands

    def chunks(self) -> list[HeardChunk]:
        """Every chunk so far."""
        with self._changed:
            heard = list(self._chunks)
        return [HeardChunk(arrived_ns, self._chunk(msg)) for arrived_ns, msg in heard]

    def _chunk(self, msg: JointTrajectory) -> ActionChunk:
        trajectory = parse_trajectory(msg, self._robot.joint_names)
        times_s = trajectory.times_s
        chunk_dt_s = float(times_s[1] - times_s[0]) if len(times_s) > 1 else 1.0
        return ActionChunk(trajectory.stamp_ns, chunk_dt_s, float(times_s[0]) / chunk_dt_s, trajectory.positions)

    def _keep_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        with self._changed:
            self._heard.append((trajectory, info))

    def _keep_idle(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        self.idle_ns.append(info["received_timestamp"])

    def _keep_mode(self, msg: String, info: dict[str, Any]) -> None:
        with self._changed:
            self._modes.append((info["source_timestamp"], msg.data))

    def _keep_chunk(self, msg: JointTrajectory, info: dict[str, Any]) -> None:
        with self._changed:
            self._chunks.append((info["received_timestamp"], msg))
            self._changed.notify_all()

    def _keep_status(self, msg: DiagnosticStatus) -> None:
        self._model_ready_ns = time.time_ns() if msg.level == DiagnosticStatus.OK else 0
