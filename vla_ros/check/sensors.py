"""Cameras and joint states against the robot file."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vla_ros.check.finding import Finding, Level, Part
from vla_ros.check.seen import CameraSeen, JointStatesSeen
from vla_ros.check.streams import judge_publishers, judge_stream, names
from vla_ros.messages.images import COLOUR_ENCODINGS, DEPTH_ENCODINGS
from vla_ros.robot import CameraConfig, JointConfig, RobotConfig
from vla_ros.units import NS_PER_S

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
# Of a joint's range. At rest on its stop a joint reads a little beyond it; more is another limit or another unit.
NOISE_SHARE, BEYOND_SHARE = 0.001, 0.02
ENOUGH_JOINT_STATES = 0.8


def judge_camera(camera: CameraConfig, seen: CameraSeen, seconds: float, has_cv_bridge: bool) -> list[Finding]:
    """One camera's publisher, rate, picture and stamps."""
    part = Part(f"camera {camera.name}")
    entry = f"camera '{camera.name}' in the robot file"
    expected, other = (COMPRESSED_IMAGE, IMAGE) if camera.compressed else (IMAGE, COMPRESSED_IMAGE)
    is_other = any(publisher.type == other for publisher in seen.topic.publishers)
    flip = f"compressed: {'false' if camera.compressed else 'true'} for {entry}"
    mend_type = flip if is_other else f"topic of {entry}"
    findings = [judge_publishers(part, seen.topic, expected, f"start the driver, or topic of {entry}", mend_type)]
    if all(publisher.type != expected for publisher in seen.topic.publishers):
        return findings
    mend = f"the driver (does it run, at which rate?), or max_age_s of {entry}"
    rate, *stamps = judge_stream(part, seen.stream, seconds, camera.max_age_s, mend)
    pictures = _judge_pictures(part, camera, seen, has_cv_bridge) if len(seen.stream) else []
    return [*findings, rate, *pictures, *stamps]


def judge_skew(cameras: Sequence[CameraSeen], max_skew_s: float) -> list[Finding]:
    """How far apart the images of one observation lie: each frame of the slowest camera, and its nearest others."""
    stamps = [seen.stream.stamps_ns for seen in cameras]
    if len(stamps) < 2 or not all(len(values) for values in stamps):
        return []
    slowest = min(stamps, key=len)
    nearest = np.stack([values[np.abs(slowest[:, None] - values).argmin(axis=1)] for values in stamps])
    skews_s = np.ptp(nearest, axis=0) / NS_PER_S
    part = Part("cameras")
    got = f"images of one observation {np.median(skews_s) * 1e3:.0f} ms apart, at most {skews_s.max() * 1e3:.0f} ms"
    expected = f"at most {max_skew_s * 1e3:.0f} ms (max_camera_skew_s)"
    mend = "trigger the cameras together, raise their rates, or max_camera_skew_s in the robot file"
    if np.median(skews_s) > max_skew_s:
        return [part.fail("skew", got, expected, mend)]
    if np.quantile(skews_s, 0.95) > max_skew_s:
        return [part.warn("skew", got, expected, mend)]
    return [part.ok("skew", got, expected)]


def judge_joint_states(robot: RobotConfig, seen: JointStatesSeen, seconds: float) -> list[Finding]:
    """Publisher, rate, names, positions and stamps of the joint states."""
    part = Part("joint states")
    mend = "start joint_state_broadcaster, or joint_states.topic in the robot file"
    findings = [judge_publishers(part, seen.topic, JOINT_STATE, mend, "joint_states.topic in the robot file")]
    if all(publisher.type != JOINT_STATE for publisher in seen.topic.publishers):
        return findings
    mend = "the driver, or joint_states.max_age_s in the robot file"
    rate, *stamps = judge_stream(part, seen.stream, seconds, robot.joint_states.max_age_s, mend)
    if rate.level is Level.OK and seen.stream.rate_hz < ENOUGH_JOINT_STATES * robot.control_rate_hz:
        expected = f"about {robot.control_rate_hz:g} Hz or more (control_rate_hz)"
        rate = part.warn("rate", rate.got, expected, "the broadcaster's update rate, or control_rate_hz")
    values = [*_judge_names(part, robot, seen), *_judge_positions(part, robot, seen)] if len(seen.stream) else []
    return [*findings, rate, *values, *stamps]


def _judge_pictures(part: Part, camera: CameraConfig, seen: CameraSeen, has_cv_bridge: bool) -> list[Finding]:
    expected = f"{camera.width}x{camera.height}"
    sizes = {f"{picture.width}x{picture.height}": None for picture in seen.pictures if picture.width}
    problems = [picture.problem for picture in seen.pictures if picture.problem]
    findings = []
    if set(sizes) - {expected}:
        mend = f"width and height of camera '{camera.name}' in the robot file, or the driver's settings"
        findings.append(part.fail("size", f"{' and '.join(sizes)} pixels", f"{expected} pixels", mend))
    elif sizes:
        findings.append(part.ok("size", f"{expected} pixels", f"{expected} pixels"))
    if problems:
        findings.append(part.fail("picture", problems[0], "whole images", "the driver, or the image transport"))
    encodings = dict.fromkeys(picture.encoding for picture in seen.pictures)
    return findings + [_judge_encoding(part, camera, encoding, has_cv_bridge) for encoding in encodings]


def _judge_encoding(part: Part, camera: CameraConfig, encoding: str, has_cv_bridge: bool) -> Finding:
    expected = f"one of {', '.join(COLOUR_ENCODINGS)}"
    if camera.compressed:
        if "compressedDepth" in encoding:
            return part.fail("encoding", encoding, "jpeg or png", "topic: the compressed colour image")
        return part.ok("encoding", encoding, "jpeg or png")
    if encoding in COLOUR_ENCODINGS:
        return part.ok("encoding", encoding, expected)
    if encoding in DEPTH_ENCODINGS:
        mend = f"topic of camera '{camera.name}' in the robot file: the colour image"
        return part.fail("encoding", f"{encoding}, which is depth", expected, mend)
    mend = "the driver's encoding, or install ROS's cv_bridge, which reads it"
    if has_cv_bridge:
        return part.warn("encoding", f"{encoding}, which cv_bridge has to convert", expected, "the driver's encoding")
    return part.fail("encoding", encoding, expected, mend)


def _judge_names(part: Part, robot: RobotConfig, seen: JointStatesSeen) -> list[Finding]:
    num = len(seen.stream)
    absent = [name for name in robot.joint_names if not seen.num_named.get(name)]
    partial = [name for name in robot.joint_names if 0 < seen.num_named.get(name, 0) < num]
    extra = [name for name in seen.num_named if name not in robot.joint_names]
    findings = []
    if absent:
        came = f"; {', '.join(extra)} came" if extra else ""
        mend = "joint names in the robot file, or the joints of joint_state_broadcaster"
        expected = "every joint of the robot file"
        findings.append(part.fail("names", f"no {', '.join(absent)}{came}", expected, mend))
    if partial:
        got = f"{partial[0]} is in {seen.num_named[partial[0]]} of {num} messages, from {names(seen.topic.publishers)}"
        mend = "publish all joints together: one joint_state_broadcaster with all of them"
        findings.append(part.fail("names", got, "every joint in every message", mend))
    if not findings:
        ignored = f"; {len(extra)} more are ignored: {', '.join(extra)}" if extra else ""
        findings.append(part.ok("names", f"all {robot.num_joints} joints{ignored}", ", ".join(robot.joint_names)))
    if seen.refused:
        reason, times = max(seen.refused.items(), key=lambda item: item[1])
        got = f"{times} of {num} messages can't be read: {reason}"
        findings.append(part.fail("values", got, "one finite position for each name", "the driver"))
    return findings


def _judge_positions(part: Part, robot: RobotConfig, seen: JointStatesSeen) -> list[Finding]:
    findings = []
    known = [joint for joint in robot.joints if joint.name in seen.positions]
    for joint in known:
        position = seen.positions[joint.name]
        beyond = max(joint.lower - position.lowest, position.highest - joint.upper)
        if beyond <= NOISE_SHARE * (joint.upper - joint.lower):
            continue
        worst = position.highest if position.highest - joint.upper == beyond else position.lowest
        got, expected = f"{joint.name} at {worst:.3f}", f"{joint.lower:g} to {joint.upper:g}"
        if beyond <= BEYOND_SHARE * (joint.upper - joint.lower):
            mend = "limits in the robot file; beyond them a joint moves inward only"
            findings.append(part.warn("limits", got, expected, mend))
        else:
            findings.append(part.fail("limits", got, expected, _mend_limits(joint, worst)))
    if not findings and known:
        findings.append(part.ok("limits", f"{len(known)} positions within the robot file's"))
    return findings


def _mend_limits(joint: JointConfig, worst: float) -> str:
    if joint.lower <= math.radians(worst) <= joint.upper and abs(worst) > 2 * math.pi:
        return "the driver: these look like degrees, and ROS has radians"
    return f"lower and upper of '{joint.name}' in the robot file, the driver's zero, or move the arm inside"
