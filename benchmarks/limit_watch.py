"""A listener that judges every command it hears against the robot file, whoever sent it, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
from rclpy.node import Node

from vla_ros.bench.control.judge import HeardCommand, LimitUse, limit_use
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import EVERYTHING
from vla_ros.units import MS_PER_NS, NS_PER_S

BATCH_SIZE = 50
ANEW_NS = NS_PER_S // 5
"""Who rested and was silent for so long begins anew, from where the arm is measured."""


class LimitWatch:
    """Hears the commands of a robot by subscriptions of ``node`` and keeps only a few.

    ``first_broken`` tells of the first step that broke a limit in what ``take`` gave last.
    """

    def __init__(self, node: Node, robot: RobotConfig) -> None:
        self._robot = robot
        self._lock = threading.Lock()
        self._before: list[HeardCommand] = []
        self._heard: list[HeardCommand] = []
        self._segments_ns: deque[int] = deque()
        self.first_broken = ""
        self._begin()
        CommandInputs(node, robot, self._on_command, EVERYTHING, self._on_unreadable)

    def new_segment(self) -> None:
        """The arm was moved by something else than a command: what is sent from now on is no step from before."""
        with self._lock:
            self._segments_ns.append(time.time_ns())

    def take(self) -> LimitUse:
        """What was heard since the last call. Raises ValueError where a command could not even be read."""
        with self._lock:
            self._judge()
            use, unreadable, self.first_broken = self._use, self._unreadable, self._broken
            self._begin()
        if unreadable:
            raise ValueError(f"a command could not be read: {unreadable}")
        return use

    def _begin(self) -> None:
        self._use, self._unreadable, self._broken = self._use_of([]), "", ""

    def _on_unreadable(self, problem: str) -> None:
        with self._lock:
            self._unreadable = self._unreadable or problem

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        try:
            command = HeardCommand.of(trajectory, info)
        except ValueError as error:
            return self._on_unreadable(str(error))
        with self._lock:
            # Several, for on a busy machine commands are heard long after they were sent.
            before = (self._before + self._heard)[-1:]
            if before and not before[0].velocities[0].any() and command.sent_ns - before[0].sent_ns > ANEW_NS:
                self._segments_ns.appendleft(command.sent_ns)
            while self._segments_ns and command.sent_ns >= self._segments_ns[0]:
                self._judge()
                self._before = []
                self._segments_ns.popleft()
            self._heard.append(command)
            if len(self._heard) >= BATCH_SIZE:
                self._judge()

    def _judge(self) -> None:
        """Of the last command judged, only the step from it is still of interest."""
        commands = self._before + self._heard
        part, known = self._use_of(commands), self._use_of(self._before)
        if part.num_violations > known.num_violations and not self._broken:
            broken = (_told(*pair) for pair in pairwise(commands) if self._use_of(pair).num_violations)
            self._broken = next(broken, "its first command")
        self._use = _joined(self._use, part, known)
        self._before, self._heard = commands[-1:], []

    def _use_of(self, commands: Sequence[HeardCommand]) -> LimitUse:
        return limit_use([commands], self._robot, 1.0 / self._robot.control_rate_hz)


def _told(before: HeardCommand, command: HeardCommand) -> str:
    """Two commands, one after the other, in one line."""
    first, second = (
        f"positions {np.round(c.positions[0], 4).tolist()} velocities {np.round(c.velocities[0], 3).tolist()}"
        for c in (before, command)
    )
    return f"{first}, {(command.sent_ns - before.sent_ns) * MS_PER_NS:.1f} ms later {second}"


def _joined(total: LimitUse, part: LimitUse, known: LimitUse) -> LimitUse:
    """``total`` and ``part``, of which ``known`` was counted before."""

    def join(name: str) -> float:
        if name.startswith("num_"):
            return getattr(total, name) + getattr(part, name) - getattr(known, name)
        return max(getattr(total, name), getattr(part, name))

    return LimitUse(**{field.name: join(field.name) for field in fields(LimitUse)})
