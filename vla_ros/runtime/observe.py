"""From the newest samples to one observation, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vla_ros.robot import RobotConfig
from vla_ros.runtime.buffers import FrameBuffer, SensorBuffers
from vla_ros.types import Frame, Observation

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class NoObservation:
    """Why no observation can be made now: one line for logs, diagnostics and refused requests."""

    reason: str


def stale_reason(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> str:
    """The first sensor that is silent or too old at ``now_ns``, in one line; empty where all are fresh."""
    joints = sensors.joints.newest()
    limit_s = robot.joint_states.max_age_s
    if joints is None:
        return f"no joint state has come on '{robot.joint_states.topic}'"
    age_s = (now_ns - joints.stamp_ns) / NS_PER_S
    if age_s > limit_s:
        return f"joint state on '{robot.joint_states.topic}' is {age_s:.2f} s old; expected at most {limit_s:g} s"
    for camera in robot.cameras:
        frame = sensors.cameras[camera.name].newest()
        if frame is None:
            return f"no usable image has come from camera '{camera.name}' on '{camera.topic}'"
        age_s = (now_ns - frame.stamp_ns) / NS_PER_S
        if age_s > camera.max_age_s:
            return f"camera '{camera.name}' is {age_s:.2f} s old; expected at most {camera.max_age_s:g} s"
    return ""


def observe(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Observation | NoObservation:
    """The newest observation at ``now_ns``.

    The camera whose newest frame is oldest sets the time; every other camera gives its frame nearest to that, the
    oldest stamp so chosen is ``t_obs``, and the joints are interpolated to it.
    """
    stale = stale_reason(robot, sensors, now_ns)
    if stale:
        return NoObservation(stale)
    if not sensors.task:
        return NoObservation("no instruction has come on 'vla_policy/task'")
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
    return Observation(stamps[first], images, joints.positions, sensors.task)


def _matching_frames(cameras: Mapping[str, FrameBuffer]) -> dict[str, Frame]:
    newest = {name: buffer.newest() for name, buffer in cameras.items()}
    assert all(frame is not None for frame in newest.values()), "stale_reason has checked it"
    reference_ns = min(frame.stamp_ns for frame in newest.values())
    return {name: buffer.nearest(reference_ns) for name, buffer in cameras.items()}
