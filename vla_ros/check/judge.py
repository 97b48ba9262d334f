"""Everything that was seen against everything that was expected."""

from __future__ import annotations

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
    used = [name for name in robot.camera_names if policy is None or name in policy.camera_names]
    cameras = {camera.name: judge_camera(camera, seen) for camera in robot.cameras}
    # What is wrong with one camera's stamps is said there.
    sound = [seen.cameras[name] for name in used if not cameras[name].fails("stamps", "age")]
    parts = [*cameras.values(), judge_skew(sound, robot.max_camera_skew_s), judge_joint_states(robot, seen)]
    parts += [judge_output(output, seen.outputs[output.name]) for output in robot.outputs]
    parts += [judge_people(seen), *([judge_policy(robot, policy)] if policy is not None else [])]
    unused = [part for name, part in cameras.items() if name not in used]
    return tuple(_mild(finding) if part in unused else finding for part in parts for finding in part.findings)


def _mild(finding: Finding) -> Finding:
    return replace(finding, level=Level.WARN) if finding.level is Level.FAIL else finding
