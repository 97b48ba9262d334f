"""Everything that was seen against everything that was expected; here what takes the commands, what people drive with,
and whether the policy fits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vla_ros import topics
from vla_ros.check.finding import Finding, Level, Part
from vla_ros.check.seen import ControllerSettings, Endpoint, GraphSeen, HandSeen, OutputSeen, TopicSeen, names
from vla_ros.check.sensors import judge_camera, judge_joint_states, judge_skew
from vla_ros.check.transport import judge_lost, judge_rivals
from vla_ros.hands import hands_of
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import OutputConfig
from vla_ros.strict import listed


@dataclass(frozen=True)
class PolicyNeeds:
    """What a policy was trained with; ``image_sizes`` are (height, width) in pixels by camera, 0 where any will do.
    ``misfit`` is why its numbers can't be this robot's, ``shortfall`` what of its golden case this robot can't
    reach, each in one line; empty where nothing is wrong. ``unmoved`` are joints that it moves and no output drives."""

    joint_names: tuple[str, ...]
    camera_names: tuple[str, ...]
    image_sizes: Mapping[str, tuple[int, int]]
    misfit: str = ""
    shortfall: str = ""
    unmoved: tuple[str, ...] = ()


def judge(robot: RobotConfig, seen: GraphSeen, policy: PolicyNeeds | None = None) -> tuple[Finding, ...]:
    """All findings, in the order of a page: sensors, outputs, people, policy.

    A camera that the policy doesn't look at may fail: that is a warning then.
    """
    used = [name for name in robot.camera_names if policy is None or name in policy.camera_names]
    cameras = {camera.name: judge_camera(camera, seen) for camera in robot.cameras}
    # What is wrong with one camera's stamps is said there.
    sound = [seen.cameras[name] for name in used if not cameras[name].fails("stamps", "age")]
    parts = [*cameras.values(), judge_skew(sound, robot.max_camera_skew_s)]
    each_source = zip(robot.joint_sources, seen.joint_states, strict=True)
    parts += [
        part for source, states in each_source for part in judge_joint_states(robot, source, states, seen.seconds)
    ]
    parts += [_judge_output(output, seen.outputs[output.name], seen.has_control_msgs) for output in robot.outputs]
    parts += [judge_lost(robot, seen), judge_rivals(seen)]
    parts += [_judge_people(robot, seen), *([_judge_policy(robot, policy)] if policy is not None else [])]
    for name in cameras.keys() - used:
        findings = cameras[name].findings
        findings[:] = [replace(f, level=Level.WARN) if f.level is Level.FAIL else f for f in findings]
    return tuple(finding for part in parts for finding in part.findings)


def _judge_output(output: OutputConfig, seen: OutputSeen, has_control_msgs: bool) -> Part:
    """Whether a controller takes what will be published, nobody else commands it, and its settings fit."""
    part, topic = Part(f"output {output.name}"), seen.topic
    if output.kind.is_gripper and not has_control_msgs:
        fix = "apt install ros-$ROS_DISTRO-control-msgs"
        part.fail("package", "control_msgs is not installed here", f"the package of {output.kind.msgtype}", fix)
    fitting = [subscription for subscription in topic.subscriptions if subscription.type == output.kind.msgtype]
    _judge_subscription(part, output, topic, fitting)
    others = [publisher for publisher in topic.publishers if publisher.node.rpartition("/")[2] != topics.POLICY_NODE]
    if others:
        got, expected = f"{names(others)} publishes commands too", f"{topics.POLICY_NODE} alone"
        part.warn("drivers", got, expected, "end them before the policy drives")
    if part.fails("controller"):
        return part
    for node, settings in seen.controllers.items():
        _judge_controller_joints(part, output, node, settings.joints)
        _judge_switches(part, output, node, settings)
    if not seen.controllers:
        part.ok("settings", f"{names(fitting)} has no controller parameters to compare")
    return part


def _judge_people(robot: RobotConfig, seen: GraphSeen) -> Part:
    """Instruction, teleoperation and stop button: absent is fine, but what is there must reach the policy node."""
    part = Part("people")
    _judge_input(part, topics.TASK, seen.task, "the instruction can come later")
    for hand in hands_of(robot):
        _judge_input(part, hand.topic, seen.hands[hand.topic.name].topic, "nobody can take over by hand there")
        _judge_leader(part, robot, seen.hands[hand.topic.name])
    _judge_input(part, topics.ESTOP, seen.estop, "there is no stop button in the graph")
    return part


def _judge_leader(part: Part, robot: RobotConfig, seen: HandSeen) -> None:
    """Whether what a leader says leads somewhere."""
    if seen.refused:
        reason, times = max(seen.refused.items(), key=lambda item: item[1])
        got = f"{times} of {seen.num_messages} messages of {seen.topic.name} can't be followed: {reason}"
        part.fail("leader", got, "one finite position for each name", "the leader's driver")
    elif seen.num_messages and not seen.num_led:
        got = f"{seen.topic.name} holds {listed(seen.came, 'no joints')}"
        part.fail("leader", got, f"some of {', '.join(robot.driven_names)}", "teleop.rename in the robot file")


def _judge_policy(robot: RobotConfig, policy: PolicyNeeds) -> Part:
    """Joints, what its numbers mean, cameras and image sizes against the robot file."""
    part = Part("policy")
    _judge_joints(part, robot, policy)
    if policy.misfit:
        part.fail(
            "space", policy.misfit, "numbers that this robot's joints can be", "data in policy.yaml, or the robot file"
        )
    elif policy.shortfall:
        fix = "kinematics and limits in the robot file: those the policy was trained with"
        part.warn("space", policy.shortfall, "every pose of the golden case within reach", fix)
    if policy.unmoved:
        got = f"moves {listed(policy.unmoved)}, which the robot file has fixed: it stays where it is measured"
        fix = "an output for it in the robot file, or a policy that leaves it out"
        part.warn("fixed", got, "a policy of joints that outputs drive", fix)
    _judge_cameras(part, robot, policy)
    return part


def _judge_subscription(part: Part, output: OutputConfig, topic: TopicSeen, fitting: Sequence[Endpoint]) -> None:
    expected = output.kind.msgtype
    where = f"output '{output.name}' in the robot file"
    if not topic.subscriptions:
        fix = f"load and activate the controller, or topic of {where}"
        got, end = ("serves the action", "server") if output.kind.is_gripper else ("listens on", "subscription")
        part.fail("controller", f"nobody {got} {topic.name}", f"a {end} of {expected}", fix)
    elif not fitting:
        types = ", ".join(sorted({subscription.type for subscription in topic.subscriptions}))
        got = f"{names(topic.subscriptions)} takes {types} on {topic.name}"
        part.fail("controller", got, expected, f"interface or topic of {where}")
    elif not output.kind.is_gripper and all(subscription.transient_local for subscription in fitting):
        got = f"{names(fitting)} asks for transient local commands"
        part.fail("controller", got, "reliable, volatile", "QoS of the controller's subscription")
    else:
        got = f"{topic.name}, {expected}, {fitting[0].qos}, taken by {names(fitting)}"
        part.ok("controller", got, expected)


def _judge_switches(part: Part, output: OutputConfig, node: str, settings: ControllerSettings) -> None:
    known = [switch for switch in output.kind.switches if switch.name in settings.switches]
    wrong = [switch for switch in known if settings.switches[switch.name] != switch.expected]
    for switch in wrong:
        got = f"{switch.name} is {json.dumps(not switch.expected)}: {switch.otherwise}"
        part.warn("settings", got, json.dumps(switch.expected), f"the YAML of {node}")
    if known and not wrong:
        part.ok("settings", f"{node}: {', '.join(f'{s.name} is {json.dumps(s.expected)}' for s in known)}")


def _judge_controller_joints(part: Part, output: OutputConfig, node: str, joints: tuple[str, ...]) -> None:
    fix = f"joints in the YAML of {node}, or of output '{output.name}' in the robot file"
    got, expected = f"{node} has {', '.join(joints) or 'no joints'}", ", ".join(output.message_names)
    if set(joints) != set(output.message_names):
        part.fail("joints", got, expected, fix)
    # Numbers without names are taken in the controller's own order.
    elif not output.kind.names_joints and joints != output.message_names:
        part.fail("joints", got, f"{expected}, in this order", fix)
    else:
        part.ok("joints", f"{node} has the same {len(joints)}", expected)


def _judge_input(part: Part, topic: topics.Topic, seen: TopicSeen, absent: str) -> None:
    aspect = topic.name.rpartition("/")[2]
    if not seen.publishers:
        return part.ok(aspect, f"nobody publishes {seen.name}: {absent}")
    for publisher in seen.publishers:  # whatever their QoS, the node hears them
        if publisher.type != topic.type:
            got = f"{publisher.node} publishes {seen.name} as {publisher.type}"
            return part.fail(aspect, got, topic.type, f"{publisher.node}: the type")
    part.ok(aspect, f"{seen.name}, {seen.publishers[0].qos}, from {names(seen.publishers)}", topic.type)


def _judge_joints(part: Part, robot: RobotConfig, policy: PolicyNeeds) -> None:
    if policy.joint_names == robot.joint_names:
        return part.ok("joints", f"the robot file's {robot.num_joints}")
    is_order = sorted(policy.joint_names) == sorted(robot.joint_names)
    got = f"{'in the order ' if is_order else ''}{', '.join(policy.joint_names)}"
    fix = f"joints in the robot file: {'the order' if is_order else 'names'} the policy was trained with"
    part.fail("joints", got, ", ".join(robot.joint_names), fix)


def _judge_cameras(part: Part, robot: RobotConfig, policy: PolicyNeeds) -> None:
    looked_at, known = ", ".join(policy.camera_names), ", ".join(robot.camera_names)
    missing = [name for name in policy.camera_names if name not in robot.camera_names]
    if missing:
        fix = f"cameras in the robot file: add {', '.join(missing)}"
        return part.fail("cameras", f"looks at {looked_at}", known, fix)
    unused = [name for name in robot.camera_names if name not in policy.camera_names]
    not_used = f"; doesn't look at {', '.join(unused)}" if unused else ""
    sizes = {name: f"{size[1]}x{size[0]} pixels" for name, size in policy.image_sizes.items() if size[0]}
    each = list(dict.fromkeys(sizes.get(name, "any size") for name in policy.camera_names))
    part.ok("cameras", f"{looked_at} with {' and '.join(each)}{' each' if len(each) == 1 else ''}{not_used}")
    for camera in robot.cameras:
        expected = f"{camera.width}x{camera.height} pixels"
        if camera.name in policy.camera_names and sizes.get(camera.name, expected) != expected:
            fix = "the camera's size in driver and robot file, or a policy trained or imported for this one"
            part.fail(
                "size", f"takes {sizes[camera.name]}", f"{expected}, as camera '{camera.name}' of the robot file", fix
            )
