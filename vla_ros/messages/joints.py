"""``sensor_msgs/JointState`` to and from numpy, matched by joint name."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_ros.messages.bounds import MAX_NAMES
from vla_ros.messages.times import fill_time
from vla_ros.strict import check_count, listed
from vla_ros.types import JointSample


def positions_by_name(msg: Any, joint_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and velocities of ``joint_names``, in that order, out of a JointState message.

    Returns ``[num_joints]`` float64 each, rad and rad/s; velocities are None where not every one of these joints has
    one: the driver sends none, fewer than names, or NaN, as for a joint without a velocity sensor. What the message
    says of further joints is ignored. Raises ValueError for too many names, a missing or repeated joint, another number
    of positions than of names, and a position that is not finite.
    """
    check_count("joint state", "names", msg.name, MAX_NAMES)
    names = list(msg.name)
    return _values(msg, [_row(names, name) for name in joint_names])


def joint_sample(msg: Any, columns: Mapping[str, int], num_joints: int, stamp_ns: int) -> JointSample | None:
    """What a JointState message says of a robot's joints, ``columns`` by the names it has for them: ``[num_joints]``,
    NaN for a joint that it doesn't name, velocities where it has none. None where it names no joint of the robot, as
    one of wheels or of another arm. Raises ValueError as ``positions_by_name``, but for a missing joint."""
    check_count("joint state", "names", msg.name, MAX_NAMES)
    rows = [row for row, name in enumerate(msg.name) if name in columns]
    if not rows:
        return None
    own = [columns[msg.name[row]] for row in rows]
    if len(set(own)) < len(own):
        _row(list(msg.name), next(msg.name[row] for row in rows if own.count(columns[msg.name[row]]) > 1))
    whole = np.full((2, num_joints), np.nan)
    whole[0, own], velocities = _values(msg, rows)
    if velocities is not None:
        whole[1, own] = velocities
    return JointSample(stamp_ns, whole[0], whole[1])


def fill_joint_state(
    msg: Any, joint_names: Sequence[str], positions: np.ndarray, velocities: np.ndarray, stamp_ns: int
) -> None:
    """Write ``positions`` and ``velocities`` ``[num_joints]`` into a JointState message."""
    fill_time(msg.header.stamp, stamp_ns)
    msg.name = list(joint_names)
    msg.position = array("d", positions)
    msg.velocity = array("d", velocities)


def _values(msg: Any, rows: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and velocities of what stands in ``rows``, as ``positions_by_name`` has them."""
    if len(msg.position) != len(msg.name):
        raise ValueError(
            f"joint state has {len(msg.name)} names and {len(msg.position)} position values; expected as many: "
            "check the driver"
        )
    positions = np.asarray(msg.position, dtype=np.float64)[rows]
    worst = np.flatnonzero(~np.isfinite(positions))
    if len(worst):
        raise ValueError(
            f"joint state position of '{msg.name[rows[worst[0]]]}' is {positions[worst[0]]}; expected a finite "
            "number: check the driver"
        )
    # With fewer or more than names nobody knows whose each is.
    velocities = np.asarray(msg.velocity, dtype=np.float64)[rows] if len(msg.velocity) == len(msg.name) else None
    return positions, velocities if velocities is not None and np.isfinite(velocities).all() else None


def _row(names: list[str], name: str) -> int:
    """Where joint ``name`` stands. Raises ValueError where it doesn't, or twice."""
    if name not in names:
        raise ValueError(
            f"joint state lacks joint '{name}'; it holds {listed(names, 'no joints')}: "
            "check the joint names in the robot file"
        )
    if names.count(name) > 1:
        raise ValueError(f"joint state names joint '{name}' twice; expected each joint once: check the driver")
    return names.index(name)
