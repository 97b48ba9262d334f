"""A robot and sensor samples for the tests of the runtime."""

from __future__ import annotations

import numpy as np

from vla_ros.robot import CameraConfig, JointConfig, OutputConfig, RobotConfig
from vla_ros.runtime.buffers import SensorBuffers
from vla_ros.types import Frame, JointSample

MS = 1_000_000
S = 1_000_000_000

ROBOT = RobotConfig(
    name="two_joints",
    control_rate_hz=50.0,
    joints=(JointConfig("shoulder", -1.0, 1.0, 1.5, 8.0), JointConfig("elbow", -2.0, 0.5, 1.0, 5.0)),
    cameras=(CameraConfig("front", "front/image", 4, 3, 0.3), CameraConfig("wrist", "wrist/image", 4, 3, 0.3)),
    outputs=(OutputConfig("arm", ("shoulder", "elbow")),),
)


def frame(camera: str, stamp_ns: int) -> Frame:
    return Frame(camera, stamp_ns, np.full((3, 4, 3), stamp_ns // MS % 256, np.uint8))


def joints(stamp_ns: int, *positions: float) -> JointSample:
    return JointSample(stamp_ns, np.array(positions), np.zeros(len(positions)))


def fill_sensors(sensors: SensorBuffers, now_ns: int, positions: tuple[float, float] = (0.0, 0.0)) -> None:
    """Fresh samples of everything at ``now_ns``, and joints well before it."""
    for camera in sensors.cameras:
        sensors.cameras[camera].add(frame(camera, now_ns))
    for stamp_ns in (now_ns - 100 * MS, now_ns):
        sensors.joints.add(joints(stamp_ns, *positions))
    sensors.task = "touch the red block"
