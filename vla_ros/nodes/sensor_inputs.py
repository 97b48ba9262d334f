"""Cameras and joint states: from topics into the buffers. Callbacks convert, store and return."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros.messages.images import Converter, decode_image
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.nodes import qos
from vla_ros.nodes.clock import read_clocks, to_steady_ns
from vla_ros.nodes.managed import Role
from vla_ros.nodes.problems import Problems
from vla_ros.robot import CameraConfig, RobotConfig
from vla_ros.runtime.buffers import SensorBuffers, joint_sample
from vla_ros.types import Frame

# Enough for every frame an inference may still be working on: four cameras at 60 Hz for 10 s.
NUM_STAMPS = 2400


class SensorInputs:
    """The subscriptions of one robot. What arrives goes into ``sensors`` while that is set, else it is dropped."""

    def __init__(self, owner: Node, robot: RobotConfig, problems: Problems, on_frame: Callable[[], None]) -> None:
        self.sensors: SensorBuffers | None = None
        self._robot = robot
        self._problems = problems
        self._on_frame = on_frame
        self._ros_now_ns = lambda: owner.get_clock().now().nanoseconds
        self._convert = _cv_bridge_converter()
        self._ros_stamps_ns: dict[int, int] = {}
        self._cameras, self._joints = Role(owner, "cameras"), Role(owner, "joints")
        for camera in robot.cameras:
            kind = CompressedImage if camera.compressed else Image
            topic = self._cameras.topic(camera.topic)
            self._cameras.node.create_subscription(kind, topic, partial(self._on_image, camera), qos.CAMERA)
        topic = self._joints.topic(robot.joint_states.topic)
        self._joints.node.create_subscription(JointState, topic, self._on_joint_state, qos.JOINT_STATES)

    def start(self) -> None:
        self._cameras.start()
        self._joints.start()

    def stop(self) -> None:
        self._cameras.stop()
        self._joints.stop()

    def ros_stamp_ns(self, steady_ns: int) -> int:
        """The header stamp that came with the buffered frame of ``steady_ns``."""
        return self._ros_stamps_ns[steady_ns]

    def _on_image(self, camera: CameraConfig, msg: Any) -> None:
        sensors = self.sensors
        if sensors is None:
            return
        source = f"camera '{camera.name}'"
        now = read_clocks(self._ros_now_ns)
        try:
            ros_ns = time_to_ns(msg.header.stamp)
            stamp_ns = to_steady_ns(ros_ns, now)
            image = decode_image(msg, self._convert)
            if image.shape != (camera.height, camera.width, 3):
                raise ValueError(
                    f"image of {image.shape[1]}x{image.shape[0]} pixels; expected {camera.width}x{camera.height}: "
                    "mend width and height in the robot file, or the driver's settings"
                )
        except ValueError as error:
            return self._problems.report(source, f"{source} on '{camera.topic}': {error}")
        self._remember(stamp_ns, ros_ns)
        sensors.cameras[camera.name].add(Frame(camera.name, stamp_ns, image))
        self._on_frame()

    def _on_joint_state(self, msg: Any) -> None:
        sensors = self.sensors
        if sensors is None:
            return
        now = read_clocks(self._ros_now_ns)
        try:
            stamp_ns = to_steady_ns(time_to_ns(msg.header.stamp), now)
            positions, velocities = positions_by_name(msg, self._robot.joint_names)
        except ValueError as error:
            return self._problems.report("joint state", f"joint state on '{self._robot.joint_states.topic}': {error}")
        sensors.joints.add(joint_sample(stamp_ns, positions, velocities))

    def _remember(self, steady_ns: int, ros_ns: int) -> None:
        self._ros_stamps_ns[steady_ns] = ros_ns
        while len(self._ros_stamps_ns) > NUM_STAMPS:
            del self._ros_stamps_ns[next(iter(self._ros_stamps_ns))]


def _cv_bridge_converter() -> Converter | None:
    """ROS's own image conversion, where it is installed."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge().imgmsg_to_cv2
