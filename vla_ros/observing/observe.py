"""From the newest samples to one observation, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vla_ros import topics
from vla_ros.observing.buffers import FrameBuffer, SensorBuffers
from vla_ros.observing.freshness import sensor_fault
from vla_ros.robot import RobotConfig
from vla_ros.types import Frame, Observation

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class NoObservation:
    """Why no observation can be made now: one line for logs, diagnostics and refused requests."""

    reason: str


def observe(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Observation | NoObservation:
    """The newest observation at ``now_ns``.

    The camera whose newest frame is oldest sets the time; every other camera gives its frame nearest to that, the
    oldest stamp so chosen is ``t_obs``, and the joints are interpolated to it.
    """
    fault = sensor_fault(robot, sensors, now_ns)
    if fault is not None:
        return NoObservation(fault.line)
    if not sensors.task:
        return NoObservation(f"no instruction has come on '{topics.TASK}'")
    frames = _matching_frames(sensors.cameras)
    stamps = {name: frame.stamp_ns for name, frame in frames.items()}
    first, last = min(stamps, key=stamps.__getitem__), max(stamps, key=stamps.__getitem__)
    skew_s = (stamps[last] - stamps[first]) / NS_PER_S
    if skew_s > robot.max_camera_skew_s:
        return NoObservation(
            f"cameras '{first}' and '{last}' are {skew_s:.3f} s apart; expected at most {robot.max_camera_skew_s:g} s "
            "(max_camera_skew_s in the robot file)"
        )
    joints = sensors.joints.at(stamps[first])
    if joints is None:
        return NoObservation(f"no joint state is as old as the image of camera '{first}'")
    images = {name: frame.image for name, frame in frames.items()}
    headers_ns = {name: frame.header_ns for name, frame in frames.items()}
    return Observation(stamps[first], headers_ns, images, joints.positions, sensors.task)


def _matching_frames(cameras: Mapping[str, FrameBuffer]) -> dict[str, Frame]:
    newest = {name: buffer.newest() for name, buffer in cameras.items()}
    assert all(frame is not None for frame in newest.values()), "sensor_fault has checked it"
    reference_ns = min(frame.stamp_ns for frame in newest.values())
    return {name: buffer.nearest(reference_ns) for name, buffer in cameras.items()}
