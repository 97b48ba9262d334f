"""What takes the commands, what people drive with, and whether the policy fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros import topics
from vla_ros.check.finding import Finding, Level, Part
from vla_ros.check.seen import ControllerSettings, Endpoint, GraphSeen, OutputSeen, TopicSeen
from vla_ros.check.streams import names
from vla_ros.observing.policy_fit import match_policy
from vla_ros.outputs import TRAJECTORY
from vla_ros.robot import OutputConfig, RobotConfig


@dataclass(frozen=True)
class PolicyNeeds:
    """What a policy was trained with; ``image_width`` and ``image_height`` in pixels, of every camera."""

    joint_names: tuple[str, ...]
    camera_names: tuple[str, ...]
    image_width: int
    image_height: int


def judge_output(output: OutputConfig, seen: OutputSeen) -> list[Finding]:
    """Whether a controller takes what will be published, nobody else commands it, and its settings fit."""
    part, expected = Part(f"output {output.name}"), output.kind.msgtype
    topic = seen.topic
    fitting = [subscription for subscription in topic.subscriptions if subscription.type == expected]
    findings = [_judge_subscription(part, output, topic, fitting)]
    others = [publisher for publisher in topic.publishers if publisher.node.rpartition("/")[2] != topics.POLICY_NODE]
    if others:
        mend = "end them before the policy drives"
        findings.append(
            part.warn("drivers", f"{names(others)} publishes commands too", f"{topics.POLICY_NODE} alone", mend)
        )
    if findings[0].level is Level.FAIL:
        return findings
    for node, settings in seen.controllers.items():
        findings += _judge_settings(part, output, node, settings)
    if not seen.controllers:
        findings.append(part.ok("settings", f"{names(fitting)} has no controller parameters to compare"))
    return findings


def judge_people(seen: GraphSeen) -> list[Finding]:
    """Instruction, teleoperation and stop button: absent is fine, but what is there must reach the policy node."""
    part = Part("people")
    return [
        _judge_input(part, "task", seen.task, "std_msgs/msg/String", True, "the instruction can come later"),
        _judge_input(part, "teleop", seen.teleop, TRAJECTORY, False, "nobody can take over by hand"),
        _judge_input(part, "estop", seen.estop, "std_msgs/msg/Bool", True, "there is no stop button in the graph"),
    ]


def judge_policy(robot: RobotConfig, policy: PolicyNeeds) -> list[Finding]:
    """Joints, cameras and image sizes against the robot file."""
    part = Part("policy")
    findings = [*_judge_joints(part, robot, policy), *_judge_cameras(part, robot, policy)]
    try:
        match_policy(robot, policy.joint_names, policy.camera_names)
    except ValueError as error:
        # The node's own word decides, should it know more than what is told apart above.
        if all(finding.level is not Level.FAIL for finding in findings):
            findings.append(part.fail("match", str(error), "a policy for this robot", "robot file or policy"))
    return findings


def _judge_subscription(part: Part, output: OutputConfig, topic: TopicSeen, fitting: Sequence[Endpoint]) -> Finding:
    expected = output.kind.msgtype
    where = f"output '{output.name}' in the robot file"
    if not topic.subscriptions:
        mend = f"load and activate the controller, or topic of {where}"
        return part.fail("controller", f"nobody listens on {topic.name}", f"a subscription of {expected}", mend)
    if not fitting:
        types = ", ".join(sorted({subscription.type for subscription in topic.subscriptions}))
        got = f"{names(topic.subscriptions)} takes {types} on {topic.name}"
        return part.fail("controller", got, expected, f"interface or topic of {where}")
    unreached = [subscription for subscription in fitting if subscription.transient_local]
    if len(unreached) == len(fitting):
        got = f"{names(unreached)} asks for transient local commands"
        return part.fail("controller", got, "reliable, volatile", "QoS of the controller's subscription")
    got = f"{topic.name}, {expected}, {fitting[0].qos}, taken by {names(fitting)}"
    return part.ok("controller", got, expected)


def _judge_settings(part: Part, output: OutputConfig, node: str, settings: ControllerSettings) -> list[Finding]:
    findings = [_judge_controller_joints(part, output, node, settings.joints)]
    fitting = []
    for switch in output.kind.switches:
        value, expected = settings.switches.get(switch.name), str(switch.expected).lower()
        if value == switch.expected:
            fitting.append(f"{switch.name} is {expected}")
        elif value is not None:
            got = f"{switch.name} is {str(value).lower()}: {switch.otherwise}"
            findings.append(part.warn("settings", got, expected, f"the YAML of {node}"))
    if fitting and len(findings) == 1:
        findings.append(part.ok("settings", f"{node}: {', '.join(fitting)}"))
    return findings


def _judge_controller_joints(part: Part, output: OutputConfig, node: str, joints: tuple[str, ...]) -> Finding:
    mend = f"joints in the YAML of {node}, or of output '{output.name}' in the robot file"
    got, expected = f"{node} has {', '.join(joints) or 'no joints'}", ", ".join(output.joints)
    if set(joints) != set(output.joints):
        return part.fail("joints", got, expected, mend)
    # Numbers without names are taken in the controller's own order.
    if not output.kind.names_joints and joints != output.joints:
        return part.fail("joints", got, f"{expected}, in this order", mend)
    return part.ok("joints", f"{node} has the same {len(joints)}", expected)


def _judge_input(
    part: Part, aspect: str, topic: TopicSeen, expected_type: str, transient_local: bool, absent: str
) -> Finding:
    if not topic.publishers:
        return part.ok(aspect, f"nobody publishes {topic.name}: {absent}")
    expected = Endpoint("", expected_type, True, transient_local)
    for publisher in topic.publishers:
        wrong_qos = not publisher.reliable or (transient_local and not publisher.transient_local)
        if publisher.type != expected_type or wrong_qos:
            got = f"{publisher.node} publishes {topic.name} as {publisher.type}, {publisher.qos}"
            return part.fail(aspect, got, f"{expected_type}, {expected.qos}", f"{publisher.node}: type and QoS")
    return part.ok(aspect, f"{topic.name}, {expected.qos}, from {names(topic.publishers)}", expected_type)


def _judge_joints(part: Part, robot: RobotConfig, policy: PolicyNeeds) -> list[Finding]:
    if policy.joint_names == robot.joint_names:
        return [part.ok("joints", f"the robot file's {robot.num_joints}")]
    is_order = sorted(policy.joint_names) == sorted(robot.joint_names)
    got = f"{'in the order ' if is_order else ''}{', '.join(policy.joint_names)}"
    mend = f"joints in the robot file: {'the order' if is_order else 'names'} the policy was trained with"
    return [part.fail("joints", got, ", ".join(robot.joint_names), mend)]


def _judge_cameras(part: Part, robot: RobotConfig, policy: PolicyNeeds) -> list[Finding]:
    missing = [name for name in policy.camera_names if name not in robot.camera_names]
    if missing:
        mend = f"cameras in the robot file: add {', '.join(missing)}"
        return [part.fail("cameras", f"looks at {', '.join(policy.camera_names)}", ", ".join(robot.camera_names), mend)]
    unused = [name for name in robot.camera_names if name not in policy.camera_names]
    not_used = f"; doesn't look at {', '.join(unused)}" if unused else ""
    size = (policy.image_width, policy.image_height)
    findings = [part.ok("cameras", f"{', '.join(policy.camera_names)} with {size[0]}x{size[1]} pixels each{not_used}")]
    for camera in robot.cameras:
        if camera.name in policy.camera_names and (camera.width, camera.height) != size:
            got = f"takes {size[0]}x{size[1]} pixels"
            expected = f"{camera.width}x{camera.height} pixels, as camera '{camera.name}' of the robot file"
            mend = "the camera's size in driver and robot file, or a policy trained or imported for this one"
            findings.append(part.fail("size", got, expected, mend))
    return findings
