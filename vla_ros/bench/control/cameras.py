"""``control_cameras``: a robot of topics only, for the control bench: raw cameras, and joints that obey at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from vla_ros.bench.control.rows import CAMERA_RATE_HZ
from vla_ros.messages.images import encode_image
from vla_ros.messages.joints import fill_joint_state
from vla_ros.messages.times import fill_time
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import load_robot
from vla_ros.robot.parts import CameraConfig
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.managed import spinning
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.parameters import NodeParameters, robot_parameter
from vla_ros.ros.qos import CAMERA, JOINT_STATES
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.share import robot_file

JOINTS_RATE_HZ = 50
NUM_PICTURES = 4


@dataclass(frozen=True)
class CamerasParams(NodeParameters):
    """Of ``control_cameras``."""

    robot: str = robot_parameter()


class ControlCameras(Node):
    """Publishes noise for each camera of ``robot``, another picture each time, and joints where they were told to be.

    The pictures are made beforehand: publishing them should cost no more than a camera driver does.
    """

    def __init__(self) -> None:
        super().__init__("control_cameras")
        robot = self._robot = load_robot(robot_file(declare_and_read(self, CamerasParams).robot))
        middle = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
        self._state = middle, np.zeros(robot.num_joints)
        self._cameras = [self.create_publisher(Image, camera.topic, CAMERA) for camera in robot.cameras]
        pictures = [_pictures(camera, seed) for seed, camera in enumerate(robot.cameras)]
        self._pictures = cycle(zip(*pictures, strict=True))
        self._joints = self.create_publisher(JointState, robot.joint_sources[0].topic, JOINT_STATES)
        CommandInputs(self, robot, self._on_command)
        self.create_timer(1 / CAMERA_RATE_HZ, self._publish_pictures)
        self.create_timer(1 / JOINTS_RATE_HZ, self._publish_joints)

    def _publish_pictures(self) -> None:
        for publisher, msg in zip(self._cameras, next(self._pictures), strict=True):
            fill_time(msg.header.stamp, self.get_clock().now().nanoseconds)
            publisher.publish(msg)

    def _publish_joints(self) -> None:
        msg = JointState()
        fill_joint_state(msg, self._robot.joint_names, *self._state, self.get_clock().now().nanoseconds)
        self._joints.publish(msg)

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        assert trajectory.velocities is not None
        self._state = trajectory.positions[0], trajectory.velocities[0]


def _pictures(camera: CameraConfig, seed: int) -> list[Image]:
    rng = np.random.default_rng(seed)
    messages = [Image() for _ in range(NUM_PICTURES)]
    for msg in messages:
        encode_image(rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8), msg, 0, camera.name)
    return messages


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    stopping = stop_on_signals()
    with ros_running(args):
        with spinning(ControlCameras()):
            stopping.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
