"""A live graph in which everything fits, to be spoilt piece by piece."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from runtime_helpers import ROBOT

from vla_ros import topics
from vla_ros.check.finding import Finding, Level
from vla_ros.check.judge import PolicyNeeds, judge
from vla_ros.check.seen import (
    CameraSeen,
    ControllerSettings,
    Endpoint,
    GraphSeen,
    HandSeen,
    JointStatesSeen,
    OutputSeen,
    Picture,
    Range,
    Stream,
    TopicSeen,
)
from vla_ros.robot import RobotConfig

MS = 1_000_000
NOW_NS = 1_700_000_000_000 * MS
IMAGE, JOINT_STATE = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"
FROM_DESIRED, NONZERO_END = "interpolate_from_desired_state", "allow_nonzero_velocity_at_trajectory_end"
SET_WELL = {FROM_DESIRED: True, NONZERO_END: False}
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
NEEDS = PolicyNeeds(ROBOT.joint_names, ("front", "wrist"), {"front": (3, 4), "wrist": (3, 4)})


def stream(period_ms: float = 50, age_ms: float = 10, num: int = 100) -> Stream:
    stamps_ns = NOW_NS + np.arange(num) * round(period_ms * MS)
    return Stream(stamps_ns + round(age_ms * MS), stamps_ns)


def topic(name: str, kind: str, **qos: bool) -> TopicSeen:
    return TopicSeen(name, (Endpoint("/driver", kind, **qos),))


def camera_seen(name: str, **changes: Any) -> CameraSeen:
    seen = CameraSeen(topic(f"/{name}/image", IMAGE, reliable=False), stream(), {Picture(4, 3, "rgb8"): 100})
    return replace(seen, **changes)


def joints_seen(told: Stream | None = None, names: tuple[str, ...] = ROBOT.joint_names, **changes: Any) -> Any:
    """Messages that all have these ``names``."""
    seen = JointStatesSeen(
        topic("/joint_states", JOINT_STATE),
        names,
        {names: told or stream(period_ms=10, age_ms=1, num=500)},
        dict.fromkeys(names),
        {"shoulder": Range(-0.1, 0.1), "elbow": Range(-1.0, -0.9)},
    )
    return replace(seen, **changes)


def output_seen(
    settings: ControllerSettings | None = None,
    kind: str = TRAJECTORY,
    publishers: tuple[Endpoint, ...] = (),
    **qos: bool,
) -> OutputSeen:
    subscriptions = (Endpoint("/arm_controller", kind, **qos),)
    seen = TopicSeen("/joint_trajectory_controller/joint_trajectory", publishers, subscriptions)
    return OutputSeen(seen, {"/arm_controller": settings} if settings else {})


def graph(**changes: Any) -> GraphSeen:
    seen = GraphSeen(
        seconds=5.0,
        cameras={name: camera_seen(name) for name in ROBOT.camera_names},
        joint_states=(joints_seen(),),
        outputs={"arm": output_seen(ControllerSettings(("elbow", "shoulder"), SET_WELL))},
        task=TopicSeen("/vla_policy/task"),
        hands={topics.TELEOP.name: HandSeen(TopicSeen("/vla_policy/teleop"))},
        estop=TopicSeen("/vla_policy/estop"),
    )
    return replace(seen, **changes)


def front(**changes: Any) -> GraphSeen:
    """All good but the front camera."""
    return graph(cameras={"front": camera_seen("front", **changes), "wrist": camera_seen("wrist")})


def problems(seen: GraphSeen, robot: RobotConfig = ROBOT, policy: PolicyNeeds | None = None) -> list[Finding]:
    return [finding for finding in judge(robot, seen, policy) if finding.level is not Level.OK]
