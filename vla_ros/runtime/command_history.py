"""The newest commands, and what was commanded at any time among them."""

from __future__ import annotations

from collections import deque

import numpy as np

from vla_ros.types import Command


class CommandHistory:
    """The last ``size`` commands, oldest first."""

    def __init__(self, size: int) -> None:
        self._commands: deque[Command] = deque(maxlen=size)

    def add(self, command: Command) -> None:
        self._commands.append(command)

    def at(self, t_ns: int) -> np.ndarray:
        """The commanded positions ``[num_joints]`` in force at ``t_ns``, interpolated between the commands around
        it."""
        newer = self._commands[-1]
        for command in reversed(self._commands):
            if command.stamp_ns <= t_ns:
                if newer is command:
                    return command.positions
                weight = (t_ns - command.stamp_ns) / (newer.stamp_ns - command.stamp_ns)
                return command.positions + weight * (newer.positions - command.positions)
            newer = command
        return newer.positions
