"""Cameras and joint states: from topics into the buffers. Callbacks convert, store and return."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros.messages.frames import decode_frame
from vla_ros.messages.images import Converter
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.observing.buffers import SensorBuffers, joint_sample
from vla_ros.robot import CameraConfig, RobotConfig
from vla_ros.ros import qos
from vla_ros.ros.clock import StampMap
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.types import Frame


class SensorInputs:
    """The subscriptions of one robot. What arrives goes into ``sensors`` while that is set, else it is dropped."""

    def __init__(
        self, owner: Node, robot: RobotConfig, stamps: StampMap, problems: Problems, on_frame: Callable[[], None]
    ) -> None:
        self.sensors: SensorBuffers | None = None
        self._robot = robot
        self._problems = problems
        self._on_frame = on_frame
        self._stamps = stamps
        self._convert = _cv_bridge_converter()
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

    def _on_image(self, camera: CameraConfig, msg: Any) -> None:
        sensors = self.sensors
        if sensors is None:
            return
        source = f"camera '{camera.name}'"
        try:
            header_ns = time_to_ns(msg.header.stamp)
            stamp_ns = self._stamps.to_steady_ns(header_ns)
            image = decode_frame(msg, camera.width, camera.height, self._convert)
        except ValueError as error:
            return self._problems.report(source, f"{source} on '{camera.topic}': {error}")
        sensors.cameras[camera.name].add(Frame(camera.name, stamp_ns, header_ns, image))
        self._on_frame()

    def _on_joint_state(self, msg: Any) -> None:
        sensors = self.sensors
        if sensors is None:
            return
        try:
            stamp_ns = self._stamps.to_steady_ns(time_to_ns(msg.header.stamp))
            positions, velocities = positions_by_name(msg, self._robot.joint_names)
        except ValueError as error:
            return self._problems.report("joint state", f"joint state on '{self._robot.joint_states.topic}': {error}")
        sensors.joints.add(joint_sample(stamp_ns, positions, velocities))


def _cv_bridge_converter() -> Converter | None:
    """ROS's own image conversion, where it is installed."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge().imgmsg_to_cv2
