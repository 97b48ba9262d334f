"""A state or action vector as it is declared (``data.state``, ``data.action`` in policy.yaml): its components in order.

::

    action:
    - {type: joints, joints: [shoulder, elbow], unit: deg, reference: observation}
    - {type: joint, joint: gripper, range: [0, 100]}
    - {type: constant, size: 2}

Behind a space everything is absolute joint targets, SI, in the robot file's order; a joint that no component moves is
held where it was measured.

What ``range`` says depends on the robot's limits, and a ``pose`` on its links. The directory holds those of the robot
that it was made with (``data.joint_limits``, ``data.kinematics``), so that it explains itself and its golden case needs
no robot file; whoever has a robot file (policy node, replay, training) binds the space to that one's, because each arm
is calibrated on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from vla_ros.spaces.components import Component, Constant, RobotJoints
from vla_ros.spaces.crank import Crank
from vla_ros.spaces.gripper import Gripper
from vla_ros.spaces.pose import Pose
from vla_ros.spaces.positions import Joint, Joints
from vla_ros.spaces.velocity import JointVelocity
from vla_ros.strict import explained, listed, parse_config, quoted

COMPONENTS: dict[str, type[Component]] = {
    "joint": Joint,
    "joints": Joints,
    "joint_velocity": JointVelocity,
    "pose": Pose,
    "gripper": Gripper,
    "crank": Crank,
    "constant": Constant,
}
"""What a declaration may name. A name is looked up here and never imported from a file."""
STATE = "data.state"


@dataclass(frozen=True)
class Space:
    """``where`` is its place in policy.yaml. Raises ValueError for a joint that is unknown, or in an action named
    twice, and for a chain of joints that isn't there."""

    where: str
    robot: RobotJoints
    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        unknown = [name for name in self.joint_names if name not in self.robot.names]
        if unknown:
            expected = f"expected one of {listed(self.robot.names)}, as in data.joint_names"
            raise ValueError(f"{self.where}: joint is '{quoted(unknown[0])}'; {expected}")
        repeated = [name for name, num in Counter(self.joint_names).items() if num > 1]
        if repeated and self.where != STATE:
            raise ValueError(
                f"{self.where}: joint '{quoted(repeated[0])}' is named twice; expected one number for each joint"
            )

    @cached_property
    def size(self) -> int:
        """How many numbers the vector has."""
        return sum(component.size for component in self.components)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """The joints that it moves, in the order of the vector; without those of poses while no robot is known."""
        with explained(f"{self.where}: "):
            return tuple(name for part in self.components for name in part.moves(self.robot))

    @cached_property
    def needs_limits_of(self) -> tuple[str, ...]:
        """The joints whose limits it depends on."""
        poses = (part.moves(self.robot) for part in self.components if part.needs_kinematics)
        return tuple(chain(*(part.needs_limits_of for part in self.components), *poses))

    @property
    def needs_kinematics(self) -> bool:
        """Whether it depends on the robot's links."""
        return any(part.needs_kinematics for part in self.components)

    def encode(self, targets: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Absolute joint targets ``[..., horizon, num_joints]`` as vectors ``[..., horizon, size]``.

        ``measured`` ``[..., num_joints]`` are the joints at ``t_obs``. A state is encoded as a chunk of one row.
        """
        return np.concatenate([part.encode(targets, measured, self.robot) for part in self.components], axis=-1)

    def decode(self, vectors: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """The inverse of ``encode``: absolute joint targets ``[..., horizon, num_joints]``, float64."""
        targets = np.empty((*vectors.shape[:-1], len(self.robot.names)))
        targets[...] = measured[..., None, :]
        for part, numbers in self._parts(vectors):
            part.decode(numbers, measured, self.robot, targets)
        return targets

    def shortfall(self, vectors: np.ndarray, measured: np.ndarray, targets: np.ndarray) -> str:
        """In one line, what of ``vectors`` the ``targets`` that they were decoded to don't do; empty where they do."""
        lines = (part.shortfall(numbers, measured, self.robot, targets) for part, numbers in self._parts(vectors))
        return "; ".join(filter(None, lines))

    def missed(self, vectors: np.ndarray, measured: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Of which of ``vectors`` ``shortfall`` speaks, bool ``[..., horizon]``."""
        found = np.zeros(vectors.shape[:-1], bool)
        for part, numbers in self._parts(vectors):
            found |= part.missed(numbers, measured, self.robot, targets)
        return found

    def check_values(self, low: np.ndarray, high: np.ndarray) -> None:
        """Raises ValueError where numbers that are mostly from ``low`` to ``high``, both ``[size]``, can't be of these
        joints."""
        for index, (part, bounds) in enumerate(self._parts(np.stack([low, high]))):
            misfit = part.misfit(bounds[0], bounds[1], self.robot)
            if misfit:
                raise ValueError(f"{self.where}[{index}]: {misfit}")

    def _parts(self, vectors: np.ndarray) -> Iterator[tuple[Component, np.ndarray]]:
        first = 0
        for part in self.components:
            yield part, vectors[..., first : first + part.size]
            first += part.size

    def check_fit(self, size: int, what: str) -> None:
        """Raises ValueError where the network's ``size``, called ``what``, is another, or limits are not known."""
        if size != self.size:
            raise ValueError(f"{what} is {size}, {self.where} makes {self.size} numbers; make them equal")
        if self.needs_kinematics and self.robot.kinematics is None:
            raise ValueError(
                f"{self.where}: a pose needs a URDF; add kinematics: {{urdf, base, tip}} to the robot file"
            )
        missing = [name for name in self.needs_limits_of if name not in self.robot.limits]
        if missing:
            raise ValueError(f"{self.where}: '{missing[0]}' lacks its limits; add them to data.joint_limits")


def parse_space(declared: Sequence[Mapping[str, Any]], where: str, robot: RobotJoints) -> Space:
    """The space of a declaration at ``where``, ``data.state`` or ``data.action``.

    Raises ValueError, naming the component, for an unknown type or key, a value that doesn't fit, a joint that is
    missing, unknown or named twice, in a state what only an action can have, no component at all, and an action that
    moves no joint.
    """
    if not declared:
        raise ValueError(f"{where} is empty; expected at least one component")
    components = tuple(_parse_component(entry, f"{where}[{index}]") for index, entry in enumerate(declared))
    for index, component in enumerate(components):
        if where == STATE and component.why_no_state:
            raise ValueError(f"{where}[{index}]: {component.why_no_state}")
    space = Space(where, robot, components)
    if where == "data.action" and not space.joint_names and not space.needs_kinematics:
        raise ValueError(f"{where} moves no joint; expected at least one component with a joint")
    return space


def joints_space(robot: RobotJoints, reference: str = "absolute") -> Space:
    """A number for each joint, in the robot file's order: what a directory that declares nothing means."""
    return Space("data.joint_names", robot, (Joints(joints=robot.names, reference=reference),))


def _parse_component(entry: Mapping[str, Any], where: str) -> Component:
    name = entry.get("type")
    if not isinstance(name, str) or name not in COMPONENTS:
        raise ValueError(f"{where}: type is {quoted(repr(name))}; expected one of {', '.join(COMPONENTS)}")
    with explained(f"{where}: "):
        return parse_config(COMPONENTS[name], {key: value for key, value in entry.items() if key != "type"}, name)
