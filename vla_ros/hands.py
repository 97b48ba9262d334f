"""The devices by which a human leads a robot, as its file says (``teleop``): their topics, and how what they say is
read.

The policy node, ``check``, ``record`` and bags know them from here alone. Messages are read by their fields: no ROS is
imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros import topics
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.messages.trajectories import Trajectory, parse_teleop
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import TeleopConfig
from vla_ros.topics import Qos, Topic


@dataclass(frozen=True)
class Hand:
    """A device on ``topic``; it takes over where the robot is no further than ``max_distance``, rad or m, from it.

    ``leader`` says how its joints become the robot's; None for one that speaks of the robot's own joints. ``partners``
    are the topics of the other leaders that are one device with it.
    """

    topic: Topic
    max_distance: float = math.inf
    leader: TeleopConfig | None = None
    partners: tuple[str, ...] = ()

    def parse(self, msg: Any, joint_names: Sequence[str]) -> Trajectory | None:
        """What a message says of ``joint_names``, its columns, NaN for one that isn't named; None where it is about
        other joints than the leader's. Raises ValueError for one that can't be followed."""
        if self.leader is None:
            return parse_teleop(msg, joint_names)
        return _parse_leader(self.leader, msg, joint_names)


def hands_of(robot: RobotConfig) -> tuple[Hand, ...]:
    """Every device that is heard: that of the robot file, by the topics of its leaders, and whoever publishes
    ``topics.TELEOP``."""
    hands = []
    for config in robot.teleop:
        leads = config.type == "joint_states"
        distance = math.inf if config.max_distance is None else config.max_distance
        kind = topics.JOINT_STATE if leads else topics.TRAJECTORY
        given = Topic(config.topic or topics.TELEOP.name, kind, Qos.COMMAND)
        partners = tuple(other.topic for other in robot.teleop if other is not config)
        hands.append(Hand(given, distance, config if leads else None, partners))
    named = any(hand.topic.name == topics.TELEOP.name for hand in hands)
    return tuple(hands) if named else (*hands, Hand(topics.TELEOP))


def _parse_leader(leader: TeleopConfig, msg: Any, joint_names: Sequence[str]) -> Trajectory | None:
    called = {robot_name: name for name, robot_name in leader.rename.items()}
    led = leader.joints or joint_names
    columns = [i for i, name in enumerate(joint_names) if name in led and called.get(name, name) in msg.name]
    if not columns:
        return None
    names = [joint_names[i] for i in columns]
    positions, _ = positions_by_name(msg, [called.get(name, name) for name in names])
    factors = [leader.scale.get(name, 1.0) * leader.sign.get(name, 1) for name in names]
    row = np.full((1, len(joint_names)), np.nan)
    row[0, columns] = positions * factors + [leader.offset.get(name, 0.0) for name in names]
    return Trajectory(time_to_ns(msg.header.stamp), np.zeros(1), row, None)
