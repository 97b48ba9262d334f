"""States that are poses of a tip: an arm of the robot's whose tip goes along them, by inverse kinematics.

A pose may leave a choice, as where the elbow of an arm with seven joints is: the arm then stays near where it began. So
joints are an arm's that can have been there, and poses made of them again are the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.spaces.components import Component, Constant, RobotJoints
from vla_ros.spaces.space import Space

MAX_STARTS = 20
"""So many postures are tried to begin with: the middle of all limits, then random ones, the same each time."""
NUM_TRIES = 10
"""Solutions one after the other, each from the one before: the first is far from the arm's own."""


def without_speeds(robot: RobotJoints) -> RobotJoints:
    """What was measured has been there, however fast a robot file lets joints move."""
    kinematics = robot.kinematics
    return robot if kinematics is None else replace(robot, kinematics=replace(kinematics, max_velocity={}))


def without_what_is_known(space: Space) -> Space:
    """A state without those poses whose joints its other numbers say."""
    known = {name for part in space.components if not part.needs_kinematics for name in part.joint_names}

    def kept(part: Component) -> Component:
        is_known = part.needs_kinematics and known.issuperset(part.moves(space.robot))
        return Constant(size=part.size) if is_known else part

    return replace(space, components=tuple(map(kept, space.components)))


def joints_along(space: Space, vectors: np.ndarray) -> np.ndarray:
    """Joints ``[num_rows, num_joints]`` of the states ``vectors`` ``[num_rows, size]``, of which each goes on from the
    one before."""
    return space.decode(vectors, _start(space, vectors[0]))


def _start(space: Space, vector: np.ndarray) -> np.ndarray:
    """Joints at a first state; where none are found that reach it, those nearest to it from the middle."""
    names = space.robot.names
    limits = np.nan_to_num([space.robot.limits.get(name, (0.0, 0.0)) for name in names], posinf=np.pi, neginf=-np.pi)
    held, rng = np.repeat(vector[None], NUM_TRIES, axis=0), np.random.default_rng(0)
    nearest = None
    for _ in range(MAX_STARTS):
        begin = limits.mean(1) if nearest is None else rng.uniform(limits[:, 0], limits[:, 1])
        found = space.decode(held, begin)[-1]
        if not space.missed(vector[None], begin, found[None]).any():
            return found
        nearest = found if nearest is None else nearest
    assert nearest is not None
    return nearest
