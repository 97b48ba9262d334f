"""Which numbers can be a joint's positions: those of another unit, or of another joint, give themselves away by their
range. A robot file's limits are rarely an arm's own to the degree; another unit is 57 times one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vla_ros.robot import RobotConfig

BEYOND = 0.25
"""Of a joint's travel: as far beyond its limits its numbers may go and still be taken for its positions."""
SHARE = 0.01
"""Of all positions, on each side: so many may be further out."""


class Bounds(NamedTuple):
    """``[num_joints]`` each; infinite for a joint that turns without end."""

    lowest: np.ndarray
    highest: np.ndarray


def plausible_bounds(robot: RobotConfig) -> Bounds:
    """The lowest and the highest position of each joint that can be one."""
    lower, upper = robot.joint_values("lower"), robot.joint_values("upper")
    slack = np.where(robot.turns, np.inf, BEYOND * (upper - lower))
    return Bounds(lower - slack, upper + slack)
