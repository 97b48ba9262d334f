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
from vla_ros.topics import NUMBERS, TRAJECTORY

New = Callable[[str], Any]
"""An empty message of a type."""


@dataclass(frozen=True)
class ControllerSwitch:
    """A parameter of the controller, what ``check`` expects of it and what happens ``otherwise``."""

    name: str
    expected: bool
    otherwise: str


@dataclass(frozen=True)
class Interface:
    """How commands of ``msgtype`` go to a controller, by default on ``topic``.

    ``encode`` makes the message of a trajectory whose columns are the joints given with it. ``decode`` reads one again,
    as far as the message says it; it also gets the period in s at which commands come, and raises ValueError for a
    message that no controller could follow. Where messages name their joints (``names_joints``), a controller may have
    them in any order.
    """

    msgtype: str
    topic: str
    encode: Callable[[New, Trajectory, Sequence[str]], Any]
    decode: Callable[[Any, Sequence[str], float], Trajectory]
    names_joints: bool
    switches: tuple[ControllerSwitch, ...] = ()


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


INTERFACES = {
    "trajectory": Interface(
        msgtype=TRAJECTORY,
        topic="joint_trajectory_controller/joint_trajectory",
        encode=_encode_trajectory,
        decode=_decode_trajectory,
        names_joints=True,
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
    ),
}
