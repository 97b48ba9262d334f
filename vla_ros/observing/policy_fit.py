"""Whether a policy and a robot belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vla_ros.robot import RobotConfig


def match_policy(robot: RobotConfig, joint_names: Sequence[str], camera_names: Sequence[str]) -> RobotConfig:
    """``robot`` with just the cameras a policy looks at, in the policy's order.

    Raises ValueError where the policy's joints or cameras are not the robot's.
    """
    if tuple(joint_names) != robot.joint_names:
        raise ValueError(
            f"the policy has joints {', '.join(joint_names)} and robot '{robot.name}' has "
            f"{', '.join(robot.joint_names)}; expected the same in the same order: fix joints in the robot file"
        )
    missing = [name for name in camera_names if name not in robot.camera_names]
    if missing:
        raise ValueError(
            f"the policy looks at camera '{missing[0]}' and robot '{robot.name}' has {', '.join(robot.camera_names)}; "
            "add it to cameras in the robot file"
        )
    cameras = {camera.name: camera for camera in robot.cameras}
    return replace(robot, cameras=tuple(cameras[name] for name in camera_names))
