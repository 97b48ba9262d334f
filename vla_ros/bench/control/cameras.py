"""``control_cameras``: a robot of topics only, for the control bench: raw cameras, and joints that obey at once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState

from vla_ros.bench.control.camera_rows import CAMERA_RATE_HZ
from vla_ros.messages.images import encode_image
from vla_ros.messages.joints import fill_joint_state
from vla_ros.messages.times import fill_time
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import CameraConfig, load_robot
from vla_ros.ros.managed import ManagedNode, run_managed
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import CAMERA, JOINT_STATES
from vla_ros.ros.ticker import Ticker
from vla_ros.share import robot_file
from vla_ros.units import NS_PER_S

JOINTS_RATE_HZ = 50
NUM_PICTURES = 4


class ControlCameras(ManagedNode):
    """Publishes noise for each camera of ``robot``, another picture each time, and joints where they were told to be.

    The pictures are made beforehand: publishing them should cost no more than a camera driver does.
    """

    def __init__(self) -> None:
        super().__init__("control_cameras")
        self.declare_parameter("autostart", True)
        self.declare_parameter("robot", "tabletop")
        self._tickers: tuple[Ticker, ...] = ()
        self._num_frames = 0
        self._lock = threading.Lock()

    def configure(self) -> None:
        self._robot = load_robot(robot_file(self.get_parameter("robot").value))
        self._positions = (self._robot.joint_values("lower") + self._robot.joint_values("upper")) / 2
        self._velocities = np.zeros(self._robot.num_joints)
        self._cameras = [self.create_publisher(Image, camera.topic, CAMERA) for camera in self._robot.cameras]
        self._pictures = [_pictures(camera, seed) for seed, camera in enumerate(self._robot.cameras)]
        self._joints = self.create_publisher(JointState, self._robot.joint_states.topic, JOINT_STATES)
        CommandInputs(self, self._robot, self._on_command)

    def activate(self) -> None:
        self._tickers = (
            Ticker(round(NS_PER_S / CAMERA_RATE_HZ), self._publish_pictures),
            Ticker(round(NS_PER_S / JOINTS_RATE_HZ), self._publish_joints),
        )
        for ticker in self._tickers:
            ticker.start()

    def deactivate(self) -> None:
        for ticker in self._tickers:
            ticker.stop()
        self._tickers = ()

    def _publish_pictures(self, deadline_ns: int) -> None:
        for publisher, pictures in zip(self._cameras, self._pictures, strict=True):
            msg = pictures[self._num_frames % NUM_PICTURES]
            fill_time(msg.header.stamp, self.get_clock().now().nanoseconds)
            publisher.publish(msg)
        self._num_frames += 1

    def _publish_joints(self, deadline_ns: int) -> None:
        with self._lock:
            positions, velocities = self._positions, self._velocities
        msg = JointState()
        fill_joint_state(msg, self._robot.joint_names, positions, velocities, self.get_clock().now().nanoseconds)
        self._joints.publish(msg)

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        assert trajectory.velocities is not None
        with self._lock:
            self._positions, self._velocities = trajectory.positions[0], trajectory.velocities[0]


def _pictures(camera: CameraConfig, seed: int) -> list[Image]:
    rng = np.random.default_rng(seed)
    messages = [Image() for _ in range(NUM_PICTURES)]
    for msg in messages:
        encode_image(rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8), msg, 0, camera.name)
    return messages


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_managed(ControlCameras, args)


if __name__ == "__main__":
    raise SystemExit(main())
