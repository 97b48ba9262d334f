"""Commands as the messages each group of joints' controller takes."""

from __future__ import annotations

from array import array

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.robot import OutputConfig, RobotConfig
from vla_ros.ros import qos
from vla_ros.runtime.limits import BrakingRamp


class CommandOutputs:
    """One publisher for each output of the robot file."""

    def __init__(self, node: Node, robot: RobotConfig, period_s: float) -> None:
        self._node = node
        self._period_s = period_s
        self._outputs = [_Output(node, robot, output) for output in robot.outputs]

    def publish(self, ramp: BrakingRamp) -> None:
        """The command, due one control period from now, and the braking ramp behind it."""
        times_s = self._period_s + ramp.times_s
        for output in self._outputs:
            output.publish(times_s, ramp)

    def destroy(self) -> None:
        for output in self._outputs:
            self._node.destroy_publisher(output.publisher)


class _Output:
    def __init__(self, node: Node, robot: RobotConfig, config: OutputConfig) -> None:
        self._joints = config.joints
        self._columns = [robot.joint_names.index(name) for name in config.joints]
        self._is_trajectory = config.interface == "trajectory"
        kind = JointTrajectory if self._is_trajectory else Float64MultiArray
        self.publisher = node.create_publisher(kind, config.command_topic, qos.COMMAND)

    def publish(self, times_s: np.ndarray, ramp: BrakingRamp) -> None:
        positions = ramp.positions[:, self._columns]
        if not self._is_trajectory:
            self.publisher.publish(Float64MultiArray(data=array("d", positions[0])))
            return
        msg = JointTrajectory()
        trajectory = Trajectory(0, times_s, positions, ramp.velocities[:, self._columns])
        fill_trajectory(msg, trajectory, self._joints, JointTrajectoryPoint)
        self.publisher.publish(msg)
