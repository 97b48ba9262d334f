"""``control_ticker``: the control bench's idle ticker, the yardstick for the lateness of commands.

Idle means: its process does nothing but tick and publish a command, by the policy node's own ticker, priority and code.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace

import numpy as np
import rclpy

from vla_ros.nodes.params import PolicyNodeParams
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.ros.clock import StampMap
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.ros.ticker import Ticker
from vla_ros.runtime.limits import BrakingRamp, Limiter
from vla_ros.share import robot_file
from vla_ros.types import Command
from vla_ros.units import NS_PER_S


@dataclass(frozen=True)
class TickerParams(NodeParameters):
    """Of ``control_ticker``."""

    robot: str = robot_parameter()
    control_rate_hz: float = parameter(50.0, "Commands per second.", unit="Hz", low=1.0, high=1000.0)


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
    """Publish one and the same command on topics of its own until told to stop."""
    stopping = stop_on_signals()
    with ros_running(args):
        node = rclpy.create_node("control_ticker")
        params = declare_and_read(node, TickerParams)
        robot, period_s = load_robot(robot_file(params.robot)), 1 / params.control_rate_hz
        ramp, outputs = ramp_in_motion(robot, period_s), CommandOutputs(node, idle_robot(robot), period_s)
        gc.collect()
        gc.freeze()
        stamps, tick_priority = StampMap(node.get_clock()), PolicyNodeParams.realtime_priority

        def publish(deadline_ns: int) -> None:
            outputs.publish(ramp, stamps.to_ros_ns(deadline_ns))

        ticker = Ticker(round(period_s * NS_PER_S), publish, tick_priority)
        ticker.start()
        stopping.wait()
        ticker.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
