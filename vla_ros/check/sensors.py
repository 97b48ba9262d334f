"""Cameras and joint states against the robot file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vla_ros.check.finding import Level, Part
from vla_ros.check.seen import CameraSeen, GraphSeen, JointStatesSeen, Stream, TopicSeen, names
from vla_ros.messages.compressed import COLOUR_FORMATS, refuse_format
from vla_ros.messages.images import COLOUR_ENCODINGS, DEPTH_ENCODINGS
from vla_ros.messages.times import MAX_LEAD_S
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, JointStateConfig
from vla_ros.strict import listed, quoted
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE
from vla_ros.units import NS_PER_S

# Of a joint's range. At rest on its stop a joint reads a little beyond it; more is another limit or another unit.
NOISE_SHARE, BEYOND_SHARE = 0.001, 0.02
ENOUGH_OF_RATE = 0.8


def judge_camera(camera: CameraConfig, graph: GraphSeen) -> Part:
    """One camera's publisher, rate, picture and stamps."""
    part, seen = Part(f"camera {camera.name}"), graph.cameras[camera.name]
    entry = f"camera '{camera.name}' in the robot file"
    expected, other = (COMPRESSED_IMAGE, IMAGE) if camera.compressed else (IMAGE, COMPRESSED_IMAGE)
    is_other = any(publisher.type == other for publisher in seen.topic.publishers)
    flip = f"compressed: {'false' if camera.compressed else 'true'} for {entry}"
    fix_type = flip if is_other else f"topic of {entry}"
    if _judge_publishers(part, seen.topic, expected, f"start the driver, or topic of {entry}", fix_type):
        fix = f"the driver (does it run, at which rate?), or max_age_s of {entry}"
        _judge_rate(part, seen.stream, graph.seconds, camera.max_age_s, fix)
        _judge_camera_rate(part, seen.stream, camera, graph)
        if len(seen.stream):
            _judge_pictures(part, camera, seen, graph.has_cv_bridge)
        _judge_stamps(part, seen.stream, camera.max_age_s)
    return part


def judge_skew(cameras: Sequence[CameraSeen], max_skew_s: float) -> Part:
    """How far apart the images of one observation lie: each frame of the slowest camera, and its nearest others."""
    part = Part("cameras")
    stamps = [np.array(seen.stream.stamps_ns, np.int64) for seen in cameras]
    if len(stamps) < 2 or not all(len(values) for values in stamps):
        return part
    slowest = min(stamps, key=len)
    nearest = np.stack([values[np.abs(slowest[:, None] - values).argmin(axis=1)] for values in stamps])
    skews_s = np.ptp(nearest, axis=0) / NS_PER_S
    got = f"images of one observation {np.median(skews_s) * 1e3:.0f} ms apart, at most {skews_s.max() * 1e3:.0f} ms"
    expected = f"at most {max_skew_s * 1e3:.0f} ms (max_camera_skew_s)"
    fix = "trigger the cameras together, raise their rates, or max_camera_skew_s in the robot file"
    seldom = Level.WARN if np.quantile(skews_s, 0.95) > max_skew_s else Level.OK
    part.add(Level.FAIL if np.median(skews_s) > max_skew_s else seldom, "skew", got, expected, fix)
    return part


def judge_joint_states(
    robot: RobotConfig, source: JointStateConfig, seen: JointStatesSeen, seconds: float
) -> tuple[Part, ...]:
    """Publisher, names and positions of one source of joint states, rate and stamps of the joints that come together:
    a part for each where they come in several messages."""
    part = Part("joint states" if len(robot.joint_sources) == 1 else f"joint states {robot.where(source)}")
    fix = "start joint_state_broadcaster, or joint_states.topic in the robot file"
    if not _judge_publishers(part, seen.topic, JOINT_STATE, fix, "joint_states.topic in the robot file", True):
        return (part,)
    if seen.contested:
        got = f"two of {names(seen.topic.publishers)} send {', '.join(seen.contested)}"
        part.fail("publisher", got, "one publisher for each joint", "end the other: nobody drives while both send")
    if seen.came:
        _judge_names(part, robot, source, seen)
        _judge_positions(part, robot, source, seen)
    else:
        _judge_rate(part, Stream(), seconds, source.max_age_s, "the driver")
    together, called = seen.together(), dict(zip(source.message_names, source.joints, strict=True))
    parts = [part]
    for own, stream in together.items():
        those = replace(source, joints=tuple(called[name] for name in own))
        if len(together) > 1:
            parts.append(Part(f"joint states {robot.where(those)}"))
        _judge_messages(parts[-1], robot, those, stream, seconds)
    return tuple(parts)


def _judge_messages(part: Part, robot: RobotConfig, source: JointStateConfig, stream: Stream, seconds: float) -> None:
    """Rate and stamps of the messages of a source."""
    fix = "the driver, or joint_states.max_age_s in the robot file"
    grippers = {name for output in robot.outputs if output.kind.is_gripper for name in output.joints}
    control_rate_hz = 0.0 if grippers.issuperset(source.joints) else robot.control_rate_hz
    _judge_rate(part, stream, seconds, source.max_age_s, fix, control_rate_hz)
    _judge_stamps(part, stream, source.max_age_s)
    if len(stream) and not part.fails("stamps") and any(output.stamp == "tick" for output in robot.outputs):
        _judge_clock(part, stream, 1.0 / robot.control_rate_hz)


def _judge_clock(part: Part, stream: Stream, period_s: float) -> None:
    """Whether the driver's clock is ours, as far as its stamps say: controllers follow commands by it."""
    ages_s = stream.ages_s
    age_s = float(ages_s[np.abs(ages_s).argmin()])
    if abs(age_s) > period_s:
        side = "before" if age_s > 0 else "after"
        got = f"joint states are stamped {abs(age_s) * 1e3:.0f} ms {side} they arrive, at best"
        expected = (
            f"at most a control period, {period_s * 1e3:.0f} ms: commands are stamped with their tick (stamp: tick)"
        )
        part.warn("clock", got, expected, "synchronise both machines (chrony), or stamp: zero for the outputs")


def _judge_pictures(part: Part, camera: CameraConfig, seen: CameraSeen, has_cv_bridge: bool) -> None:
    expected = f"{camera.width}x{camera.height}"
    sizes = {f"{picture.width}x{picture.height}": None for picture in seen.pictures if picture.width}
    problems = [picture.problem for picture in seen.pictures if picture.problem]
    if set(sizes) - {expected}:
        fix = f"width and height of camera '{camera.name}' in the robot file, or the driver's settings"
        part.fail("size", f"{' and '.join(sizes)} pixels", f"{expected} pixels", fix)
    elif sizes:
        part.ok("size", f"{expected} pixels", f"{expected} pixels")
    if problems:
        part.fail("picture", problems[0], "whole images", "the driver, or the image transport")
    for encoding in dict.fromkeys(picture.encoding for picture in seen.pictures):
        _judge_encoding(part, camera, encoding, has_cv_bridge)


def _judge_encoding(part: Part, camera: CameraConfig, encoding: str, has_cv_bridge: bool) -> None:
    expected = COLOUR_FORMATS if camera.compressed else f"one of {', '.join(COLOUR_ENCODINGS)}"
    refusal = refuse_format(encoding) if camera.compressed else None
    if refusal:
        part.fail("encoding", f"'{quoted(encoding)}', which is {refusal.what}", expected, refusal.fix)
    elif camera.compressed or encoding in COLOUR_ENCODINGS:
        part.ok("encoding", quoted(encoding), expected)
    elif encoding in DEPTH_ENCODINGS:
        fix = f"topic of camera '{camera.name}' in the robot file: the colour image"
        part.fail("encoding", f"{encoding}, which is depth", expected, fix)
    elif has_cv_bridge:
        part.warn("encoding", f"{quoted(encoding)}, which cv_bridge has to convert", expected, "the driver's encoding")
    else:
        fix = "the driver's encoding, or install ROS's cv_bridge, which reads it"
        part.fail("encoding", quoted(encoding), expected, fix)


def _judge_names(part: Part, robot: RobotConfig, source: JointStateConfig, seen: JointStatesSeen) -> None:
    expected = source.message_names
    absent = [name for name in expected if name not in seen.came]
    extra = [name for name in seen.came if name not in robot.joint_columns[source.topic]]
    if absent:
        came = f"; {listed(extra)} came" if extra else ""
        fix = "joint names in the robot file, or the joints of joint_state_broadcaster"
        part.fail("names", f"no {', '.join(absent)}{came}", "every joint of the robot file", fix)
    else:
        ignored = f"; {len(extra)} more are ignored: {listed(extra)}" if extra else ""
        part.ok("names", f"all {len(expected)} joints{ignored}", ", ".join(expected))
    if seen.refused:
        num = sum(map(len, seen.streams.values()))
        reason, times = max(seen.refused.items(), key=lambda item: item[1])
        got = f"{times} of {num} messages can't be read: {reason}"
        part.fail("values", got, "one finite position for each name", "the driver")


def _judge_positions(part: Part, robot: RobotConfig, source: JointStateConfig, seen: JointStatesSeen) -> None:
    called = dict(zip(source.joints, source.message_names, strict=True))
    known = [joint for joint in robot.joints if called.get(joint.name) in seen.positions]
    num_before = len(part.findings)
    for joint in known:
        position = seen.positions[called[joint.name]]
        beyond = max(joint.lower - position.lowest, position.highest - joint.upper)
        share = beyond / (joint.upper - joint.lower)
        worst = position.highest if position.highest - joint.upper == beyond else position.lowest
        got, expected = f"{joint.name} at {worst:.3f}", f"{joint.lower:g} to {joint.upper:g}"
        if share > BEYOND_SHARE:
            part.fail("limits", got, expected, _fix_limits(joint, worst))
        elif share > NOISE_SHARE:
            fix = "limits in the robot file; beyond them a joint moves inward only"
            part.warn("limits", got, expected, fix)
    if known and len(part.findings) == num_before:
        part.ok("limits", f"{len(known)} positions within the robot file's")


def _fix_limits(joint: JointConfig, worst: float) -> str:
    if joint.lower <= math.radians(worst) <= joint.upper and abs(worst) > 2 * math.pi:
        return "the driver: these look like degrees, and ROS has radians"
    return f"lower and upper of '{joint.name}' in the robot file, the driver's zero, or move the arm inside"


def _judge_publishers(
    part: Part, topic: TopicSeen, expected_type: str, fix: str, fix_type: str, is_shared: bool = False
) -> bool:
    """Whether somebody publishes the expected type, alone where the topic is not shared; for a subscription that is
    best effort, which any QoS serves."""
    fitting = [publisher for publisher in topic.publishers if publisher.type == expected_type]
    if not topic.publishers:
        part.fail("publisher", f"nobody publishes {topic.name}", f"a publisher of {expected_type}", fix)
    elif not fitting:
        types = ", ".join(sorted({publisher.type for publisher in topic.publishers}))
        part.fail("publisher", f"{topic.name} is {types}, from {names(topic.publishers)}", expected_type, fix_type)
    elif len(topic.publishers) > 1 and not is_shared:
        got = f"{len(topic.publishers)} publishers of {topic.name}: {names(topic.publishers)}"
        part.warn("publisher", got, "one", "end the others, or give this one a topic of its own")
    else:
        got = f"{topic.name}, {expected_type}, {fitting[0].qos}, from {names(topic.publishers)}"
        part.ok("publisher", got, expected_type)
    return bool(fitting)


def _judge_rate(
    part: Part, stream: Stream, seconds: float, max_age_s: float, fix: str, control_rate_hz: float = 0.0
) -> None:
    """Whether messages come more often than the robot file lets them age, and about as often as commands do."""
    expected = f"a message every {max_age_s:g} s at least (max_age_s)"
    if len(stream) < 2:
        got = f"{len(stream) or 'no'} message{'' if len(stream) == 1 else 's'} in {seconds:g} s"
        return part.fail("rate", got, expected, fix)
    if stream.silence_s > max(max_age_s, 2 * stream.gaps_s.max()):
        return part.fail("rate", f"silent for the last {stream.silence_s:.1f} s", expected, fix)
    got = f"{stream.rate_hz:.1f} Hz, longest gap {stream.gaps_s.max() * 1e3:.0f} ms"
    if np.median(stream.gaps_s) > max_age_s:
        return part.fail("rate", got, expected, fix)
    if stream.rate_hz < ENOUGH_OF_RATE * control_rate_hz:
        expected = f"about {control_rate_hz:g} Hz or more (control_rate_hz)"
        return part.warn("rate", got, expected, "the broadcaster's update rate, or control_rate_hz")
    part.ok("rate", got, expected)


def _judge_camera_rate(part: Part, stream: Stream, camera: CameraConfig, graph: GraphSeen) -> None:
    """Whether images come about as often as the robot file says; those that come too seldom have their finding."""
    rate_hz = camera.rate_hz
    if rate_hz is None or part.fails("rate") or stream.rate_hz >= ENOUGH_OF_RATE * rate_hz:
        return
    expected = f"about {rate_hz:g} Hz (rate_hz of camera '{camera.name}' in the robot file)"
    fix = graph.cure_of_losses if graph.num_lost.get(camera.topic) else "the camera's settings, its exposure time too"
    part.warn("rate_hz", f"{stream.rate_hz:.1f} Hz", expected, fix)


def _judge_stamps(part: Part, stream: Stream, max_age_s: float) -> None:
    """Whether messages are stamped with the time they are of, one after the other, and are young enough."""
    num_zero = len(stream) - np.count_nonzero(stream.stamps_ns)
    steps_ns = np.diff(stream.stamps_ns)
    num_back, num_same = int((steps_ns < 0).sum()), int((steps_ns == 0).sum())
    if num_zero:
        got = f"{num_zero} of {len(stream)} header stamps are 0"
        part.fail("stamps", got, "the time of the measurement", "the driver: set header.stamp")
    elif num_back:
        got = f"stamps go back {num_back} times in {len(stream)} messages"
        fix = "one publisher only; a looping bag or simulation must restart the policy node too"
        part.fail("stamps", got, "stamps that increase", fix)
    elif num_same:
        got = f"{num_same} of {len(stream)} messages repeat the stamp before"
        fix = "the driver: it stands still, or sends a measurement more than once"
        part.add(Level.FAIL if num_same == len(steps_ns) else Level.WARN, "stamps", got, "a new stamp each", fix)
    if len(stream) and not part.fails("stamps"):
        _judge_age(part, stream, max_age_s)


def _judge_age(part: Part, stream: Stream, max_age_s: float) -> None:
    ages_s = stream.ages_s
    age_s = float(np.median(ages_s))
    clocks = "clocks: synchronise both machines (chrony), and use_sim_time alike on all nodes"
    if age_s < -MAX_LEAD_S:
        return part.fail("age", f"stamped {_seconds(-age_s)} ahead of now", f"at most {MAX_LEAD_S:g} s ahead", clocks)
    got = f"stamped {age_s * 1e3:.0f} ms before arrival, at most {ages_s.max() * 1e3:.0f} ms"
    if abs(age_s) >= 10.0:
        got = f"stamped {_seconds(age_s)} before arrival"
    expected = f"less than {max_age_s:g} s when the next comes (max_age_s)"
    # Messages that come too seldom have their finding already.
    oldest_s = ages_s if part.fails("rate") else stream.oldest_s
    if max(age_s, float(np.median(oldest_s))) > max_age_s:
        return part.fail("age", got, expected, f"{clocks}; else a faster driver, or max_age_s in the robot file")
    if oldest_s.max() > max_age_s:
        got = f"{got}; once {_seconds(float(oldest_s.max()))} when the next came"
        return part.warn("age", got, expected, "load on machine and network, or max_age_s in the robot file")
    part.ok("age", got, expected)


def _seconds(value_s: float) -> str:
    if value_s < 60.0:
        return f"{value_s:.2f} s"
    days = value_s / 86400.0
    return f"{days:,.0f} days" if days >= 2.0 else f"{value_s:,.0f} s"
