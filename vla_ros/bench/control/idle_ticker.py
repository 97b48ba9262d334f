"""``control_ticker``: the control bench's idle ticker, the yardstick for the lateness of commands.

Idle means: its process does nothing but tick and publish a command, by the policy node's own ticker, priority and code.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np

from vla_ros.robot import RobotConfig, load_robot
from vla_ros.ros.managed import ManagedNode, run_managed
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.ros.ticker import Ticker
from vla_ros.runtime.limits import BrakingRamp, Limiter
from vla_ros.share import robot_file
from vla_ros.types import Command
from vla_ros.units import NS_PER_S


class ControlTicker(ManagedNode):
    """Publishes one and the same command of ``robot`` on topics of its own, ``control_rate_hz`` times a second."""

    def __init__(self) -> None:
        super().__init__("control_ticker")
        self.declare_parameter("autostart", True)
        self.declare_parameter("robot", "tabletop")
        self.declare_parameter("control_rate_hz", 50.0)
        self.declare_parameter("realtime_priority", 10)
        self._outputs: CommandOutputs | None = None
        self._ticker: Ticker | None = None

    def configure(self) -> None:
        robot = load_robot(robot_file(self._get("robot")))
        self._period_ns = round(NS_PER_S / self._get("control_rate_hz"))
        self._ramp = ramp_in_motion(robot, self._period_ns / NS_PER_S)
        self._outputs = CommandOutputs(self, idle_robot(robot), self._period_ns / NS_PER_S)

    def activate(self) -> None:
        gc.collect()
        gc.freeze()
        self._ticker = Ticker(self._period_ns, self._tick, self._get("realtime_priority"))
        self._ticker.start()

    def deactivate(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None

    def cleanup(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def _tick(self, deadline_ns: int) -> None:
        assert self._outputs is not None
        self._outputs.publish(self._ramp)

    def _get(self, name: str) -> Any:
        return self.get_parameter(name).value


def idle_robot(robot: RobotConfig) -> RobotConfig:
    """``robot`` with topics that no controller listens on."""
    outputs = (replace(output, topic=f"control_ticker/{output.name}") for output in robot.outputs)
    return replace(robot, outputs=tuple(outputs))


def ramp_in_motion(robot: RobotConfig, period_s: float) -> BrakingRamp:
    """A command as large as those of a moving arm: each joint has a speed of its own, so that each ends its braking
    ramp at a point of its own."""
    speeds = robot.joint_values("max_velocity") * np.linspace(0.1, 1.0, robot.num_joints)
    middle = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
    return Limiter(robot, period_s).braking_ramp(Command(0, middle, speeds, ""))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_managed(ControlTicker, args)


if __name__ == "__main__":
    raise SystemExit(main())
