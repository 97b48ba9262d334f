"""What is missing, too old or standing still among the sensors, each with its age and limit."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.observing.buffers import SensorBuffers
from vla_ros.robot import RobotConfig
from vla_ros.units import NS_PER_S

SETTLING_S = 0.25


@dataclass(frozen=True)
class Fault:
    """``kind`` is a field of ``WatchdogConfig``, or ``teleop``; ``line`` says everything; ``age_s`` is above
    ``limit_s`` where it is a matter of time."""

    kind: str
    line: str
    age_s: float | None = None
    limit_s: float | None = None


def joint_fault(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Fault | None:
    """The first joints whose state is missing or too old at ``now_ns``."""
    for part in sensors.joints.parts:
        newest, limit_s = part.buffer.newest(), part.source.max_age_s
        if newest is None:
            return Fault("joints", f"no joint state has come {robot.where(part.source)}")
        age_s = (now_ns - newest.stamp_ns) / NS_PER_S
        if age_s > limit_s:
            line = f"joint state {robot.where(part.source)} is {age_s:.2f} s old; expected at most {limit_s:g} s"
            return Fault("joints", line, age_s, limit_s)
    return None


def jump_fault(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Fault | None:
    """A joint that was elsewhere within the last ``SETTLING_S`` than an arm can have moved it."""
    for part in sensors.joints.parts:
        jump = part.buffer.jump
        if jump is None or now_ns - jump.stamp_ns > SETTLING_S * NS_PER_S:
            continue
        joint = robot.joints[part.columns[jump.joint]]
        line = (
            f"joint state {robot.where(part.source)} jumped: joint '{joint.name}' by {jump.distance:.2f} within "
            f"{jump.span_s:.3f} s; expected no more than max_velocity {joint.max_velocity:g} allows: is there a second "
            "publisher?"
        )
        return Fault("joints", line)
    return None


def camera_fault(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Fault | None:
    """The first camera whose image is missing or too old at ``now_ns``."""
    for camera in robot.cameras:
        frame = sensors.cameras[camera.name].newest()
        if frame is None:
            return Fault("camera", f"no usable image has come from camera '{camera.name}' on '{camera.topic}'")
        age_s = (now_ns - frame.stamp_ns) / NS_PER_S
        if age_s > camera.max_age_s:
            line = f"camera '{camera.name}' is {age_s:.2f} s old; expected at most {camera.max_age_s:g} s"
            return Fault("camera", line, age_s, camera.max_age_s)
    return None


def frozen_fault(robot: RobotConfig, sensors: SensorBuffers, since_ns: int) -> Fault | None:
    """The first camera whose pixels have not changed for too long since ``since_ns``, when the policy began to drive: a
    camera without noise shows a robot at rest by the same pixels again and again."""
    for camera in robot.cameras:
        still_s = sensors.cameras[camera.name].still_s(since_ns)
        if 0 < camera.max_frozen_s < still_s:
            line = (
                f"camera '{camera.name}' is frozen: the same pixels for {still_s:.2f} s; "
                f"expected a change within {camera.max_frozen_s:g} s"
            )
            return Fault("frozen_camera", line, still_s, camera.max_frozen_s)
    return None


def sensor_fault(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Fault | None:
    """The first thing that keeps an observation from being made of what the sensors gave."""
    return joint_fault(robot, sensors, now_ns) or camera_fault(robot, sensors, now_ns)
