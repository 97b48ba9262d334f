"""Everything that was seen against everything that was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vla_ros.check.drivers import PolicyNeeds, judge_output, judge_people, judge_policy
from vla_ros.check.finding import Finding, Level
from vla_ros.check.seen import GraphSeen
from vla_ros.check.sensors import judge_camera, judge_joint_states, judge_skew
from vla_ros.robot import RobotConfig


def judge(robot: RobotConfig, seen: GraphSeen, policy: PolicyNeeds | None = None) -> tuple[Finding, ...]:
    """All findings, in the order of a page: sensors, outputs, people, policy.

    A camera that the policy doesn't look at may fail: that is a warning then.
    """
    findings: list[Finding] = []
    used = [name for name in robot.camera_names if policy is None or name in policy.camera_names]
    for camera in robot.cameras:
        of_camera = judge_camera(camera, seen.cameras[camera.name], seen.seconds, seen.has_cv_bridge)
        findings += of_camera if camera.name in used else _mild(of_camera)
    # What is wrong with one camera's stamps is said there.
    sound = [name for name in used if not _fails(findings, f"camera {name}", ("stamps", "age"))]
    findings += judge_skew([seen.cameras[name] for name in sound], robot.max_camera_skew_s)
    findings += judge_joint_states(robot, seen.joint_states, seen.seconds)
    for output in robot.outputs:
        findings += judge_output(output, seen.outputs[output.name])
    findings += judge_people(seen)
    if policy is not None:
        findings += judge_policy(robot, policy)
    return tuple(findings)


def _fails(findings: Sequence[Finding], part: str, aspects: Sequence[str]) -> bool:
    failed = {finding.aspect for finding in findings if finding.part == part and finding.level is Level.FAIL}
    return not failed.isdisjoint(aspects)


def _mild(findings: Sequence[Finding]) -> list[Finding]:
    return [replace(finding, level=Level.WARN) if finding.level is Level.FAIL else finding for finding in findings]
