"""What a human's teleop message may be: usable ones, and each way in which one cannot be used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.messages.times import fill_time
from vla_ros.robot import RobotConfig
from vla_ros.units import NS_PER_S

LARGE = "60,000 points"
LONG_AGO_S, OVER_AGO_S, LATER_S = 3600.0, 2.0, 60.0
BEYOND = 0.1
"""Outside a joint's limits by so much, rad or m."""

Goal = np.ndarray
Message = JointTrajectory | bytes
Make = Callable[[RobotConfig, Goal], Message]


@dataclass(frozen=True)
class Way:
    """``make`` gives the message, or what is sent in its place, near the goal ``[num_joints]``; refused, it is told
    with ``word``."""

    make: Make
    word: str


def hand(
    joint_names: Sequence[str], rows: Sequence[Sequence[float]], ahead_s: float | None = None, step_s: float = 0.02
) -> JointTrajectory:
    """A trajectory of ``rows`` ``[num_points, num_joints]``, ``step_s`` apart; stamped with so much after now, or not
    at all."""
    msg = JointTrajectory(joint_names=joint_names)
    msg.points = [JointTrajectoryPoint(positions=list(row)) for row in rows]
    for i, point in enumerate(msg.points):
        fill_time(point.time_from_start, round((i + 1) * step_s * NS_PER_S))
    if ahead_s is not None:
        fill_time(msg.header.stamp, time.time_ns() + round(ahead_s * NS_PER_S))
    return msg


def whole(robot: RobotConfig, goal: Goal) -> JointTrajectory:
    return hand(robot.joint_names, [goal])


def in_part(robot: RobotConfig, goal: Goal) -> JointTrajectory:
    return hand(robot.joint_names[:2], [goal[:2]])


def in_another_order(robot: RobotConfig, goal: Goal) -> JointTrajectory:
    return hand(robot.joint_names[::-1], [goal[::-1]])


def beyond_limits(robot: RobotConfig, goal: Goal) -> JointTrajectory:
    """Outside the nearer limit of the first joint."""
    lower, upper = robot.joints[0].lower, robot.joints[0].upper
    far = upper + BEYOND if goal[0] > (lower + upper) / 2 else lower - BEYOND
    return hand(robot.joint_names, [[far, *goal[1:]]])


def _backwards(robot: RobotConfig, goal: Goal) -> JointTrajectory:
    msg = hand(robot.joint_names, [goal, goal])
    msg.points.reverse()
    return msg


def _repeated(num_points: int, robot: RobotConfig, goal: Goal) -> JointTrajectory:
    msg = hand(robot.joint_names, [goal])
    msg.points = list(msg.points) * num_points
    return msg


UNUSABLE: Mapping[str, Way] = {
    "none of our joints": Way(
        lambda robot, goal: hand([f"other_{n}" for n in robot.joint_names], [goal]), "names none"
    ),
    "a joint of somebody else's": Way(
        lambda robot, goal: hand([*robot.joint_names, "thumb"], [[*goal, 0.0]]), "names unknown joint 'thumb'"
    ),
    "a joint twice": Way(
        lambda robot, goal: hand([*robot.joint_names, robot.joint_names[0]], [[*goal, 0.0]]), "twice; expected"
    ),
    "not a number": Way(lambda robot, goal: hand(robot.joint_names, [np.full_like(goal, np.nan)]), "not finite"),
    "too few numbers": Way(lambda robot, goal: hand(robot.joint_names, [goal[:-1]]), "positions; expected"),
    "no point": Way(lambda robot, goal: hand(robot.joint_names, []), "has no points"),
    "times that go back": Way(_backwards, "expected strictly increasing times"),
    "stamped long ago": Way(lambda robot, goal: hand(robot.joint_names, [goal], -LONG_AGO_S), "header stamp is"),
    "stamped far ahead": Way(lambda robot, goal: hand(robot.joint_names, [goal], LATER_S), "header stamp is"),
    "over by now": Way(lambda robot, goal: hand(robot.joint_names, [goal], -OVER_AGO_S), "trajectory ended"),
    "1,200 points": Way(partial(_repeated, 1200), "trajectory has 1200 points"),
    LARGE: Way(partial(_repeated, 60_000), "message has"),
    "half a message": Way(lambda robot, goal: serialize_message(whole(robot, goal))[:-40], "is not a valid"),
}
