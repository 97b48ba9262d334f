"""The interfaces that an output of a robot file may have: how commands reach a controller, and how they are read again.

The robot file, the policy node, ``check``, ``record``, bags, simulation and benches know them from here alone: another
interface is another entry. Messages are made by type name (``new``) and read by their fields: no ROS is imported.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vla_ros.messages.trajectories import Trajectory, fill_trajectory, parse_trajectory
from vla_ros.topics import GRIPPER_COMMAND, NUMBERS, PARALLEL_GRIPPER_COMMAND, TRAJECTORY

New = Callable[[str], Any]
"""An empty message of a type, or an empty goal of an action."""


@dataclass(frozen=True)
class ControllerSwitch:
    """A parameter of the controller, what ``check`` expects of it and what happens ``otherwise``."""

    name: str
    expected: bool
    otherwise: str


@dataclass(frozen=True)
class Interface:
    """How commands go to a controller: as messages of ``msgtype``, by default on ``topic``; to a gripper, as goals of
    the action ``msgtype``.

    ``encode`` makes the message, or the goal, of a trajectory whose columns are the joints given with it. ``decode``
    reads a message again, as far as it says it; it also gets the period in s at which commands come, and raises
    ValueError for a message that no controller could follow. It is None where what the controller gets doesn't say
    positions, or is no message: the set points are then published beside it, as a trajectory. Where messages name
    their joints (``names_joints``), they have times, and a controller may have its joints in any order. ``keys`` are
    those of an output in the robot file that not every interface has. ``set_effort`` writes the largest effort, N or
    Nm, into a goal.
    """

    msgtype: str
    topic: str
    encode: Callable[[New, Trajectory, Sequence[str]], Any]
    decode: Callable[[Any, Sequence[str], float], Trajectory] | None
    names_joints: bool
    keys: tuple[str, ...]
    switches: tuple[ControllerSwitch, ...] = ()
    set_effort: Callable[[Any, float], None] | None = None

    @property
    def is_gripper(self) -> bool:
        """Whether commands are goals of an action."""
        return self.set_effort is not None


def _encode_trajectory(new: New, trajectory: Trajectory, joints: Sequence[str]) -> Any:
    msg = new(TRAJECTORY)
    fill_trajectory(msg, trajectory, joints, partial(new, "trajectory_msgs/msg/JointTrajectoryPoint"))
    return msg


def _decode_trajectory(msg: Any, joints: Sequence[str], period_s: float) -> Trajectory:
    return parse_trajectory(msg, joints)


def _encode_positions(new: New, trajectory: Trajectory, joints: Sequence[str]) -> Any:
    msg = new(NUMBERS)
    msg.data = array("d", trajectory.positions[0])
    return msg


def _decode_positions(msg: Any, joints: Sequence[str], period_s: float) -> Trajectory:
    positions = np.array(msg.data, np.float64)
    if positions.shape != (len(joints),) or not np.isfinite(positions).all():
        got = f"command of {positions.size} numbers"
        raise ValueError(f"{got}; expected {len(joints)} finite ones, for {', '.join(joints)}")
    return Trajectory(0, np.array([period_s]), positions[None], None)


def _encode_velocities(new: New, trajectory: Trajectory, joints: Sequence[str]) -> Any:
    assert trajectory.velocities is not None, "commands have velocities"
    msg = new(NUMBERS)
    msg.data = array("d", trajectory.velocities[0])
    return msg


def _encode_gripper(new: New, trajectory: Trajectory, joints: Sequence[str]) -> Any:
    goal = new(GRIPPER_COMMAND)
    goal.command.position = float(trajectory.positions[0, 0])
    return goal


def _encode_parallel_gripper(new: New, trajectory: Trajectory, joints: Sequence[str]) -> Any:
    goal = new(PARALLEL_GRIPPER_COMMAND)
    goal.command.name = list(joints)
    goal.command.position = array("d", trajectory.positions[0])
    return goal


def _set_max_effort(goal: Any, max_effort: float) -> None:
    goal.command.max_effort = max_effort


def _set_parallel_effort(goal: Any, max_effort: float) -> None:
    goal.command.effort = array("d", [max_effort])


GRIPPER_KEYS = ("min_change", "max_rate_hz", "max_effort")
INTERFACES = {
    "trajectory": Interface(
        msgtype=TRAJECTORY,
        topic="joint_trajectory_controller/joint_trajectory",
        encode=_encode_trajectory,
        decode=_decode_trajectory,
        names_joints=True,
        keys=("stamp", "lead_periods", "rename"),
        switches=(
            ControllerSwitch(
                "interpolate_from_desired_state", True, "the arm falls back to its measured state at every command"
            ),
            ControllerSwitch(
                "allow_nonzero_velocity_at_trajectory_end", False, "a trajectory cut short would not stop the arm"
            ),
        ),
    ),
    "forward": Interface(
        msgtype=NUMBERS,
        topic="forward_position_controller/commands",
        encode=_encode_positions,
        decode=_decode_positions,
        names_joints=False,
        keys=("stamp",),
    ),
    "velocity": Interface(
        msgtype=NUMBERS,
        topic="forward_velocity_controller/commands",
        encode=_encode_velocities,
        decode=None,
        names_joints=False,
        keys=(),
    ),
    "gripper_command": Interface(
        msgtype=GRIPPER_COMMAND,
        topic="gripper_controller/gripper_cmd",
        encode=_encode_gripper,
        decode=None,
        names_joints=False,
        keys=GRIPPER_KEYS,
        set_effort=_set_max_effort,
    ),
    "parallel_gripper": Interface(
        msgtype=PARALLEL_GRIPPER_COMMAND,
        topic="gripper_controller/gripper_cmd",
        encode=_encode_parallel_gripper,
        decode=None,
        names_joints=False,
        keys=(*GRIPPER_KEYS, "rename"),
        set_effort=_set_parallel_effort,
    ),
}
