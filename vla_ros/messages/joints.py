"""``sensor_msgs/JointState`` to and from numpy, matched by joint name."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_ros.messages.times import fill_time


def positions_by_name(msg: Any, joint_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and velocities of ``joint_names``, in that order, out of a JointState message.

    Returns ``[num_joints]`` float64 each, rad and rad/s; velocities are None where the driver sends none, or NaN for
    some joint, as for one without a velocity sensor. Further joints in the message are ignored. Raises ValueError for a
    missing or repeated joint, a wrong number of values, and a position that is not finite.
    """
    names = list(msg.name)
    index = {name: i for i, name in enumerate(names)}
    if len(index) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"joint state names joint '{repeated}' twice; expected each joint once: check the driver")
    missing = [name for name in joint_names if name not in index]
    if missing:
        raise ValueError(
            f"joint state lacks joint '{missing[0]}'; it holds {', '.join(names) or 'no joints'}: "
            "check the joint names in the robot file"
        )
    rows = [index[name] for name in joint_names]
    positions = _values(msg.position, "position", names, rows)
    worst = np.flatnonzero(~np.isfinite(positions))
    if len(worst):
        raise ValueError(
            f"joint state position of '{joint_names[worst[0]]}' is {positions[worst[0]]}; expected a finite number: "
            "check the driver"
        )
    velocities = _values(msg.velocity, "velocity", names, rows) if len(msg.velocity) else None
    return positions, velocities if velocities is not None and np.isfinite(velocities).all() else None


def fill_joint_state(
    msg: Any, joint_names: Sequence[str], positions: np.ndarray, velocities: np.ndarray, stamp_ns: int
) -> None:
    """Write ``positions`` and ``velocities`` ``[num_joints]`` into a JointState message."""
    fill_time(msg.header.stamp, stamp_ns)
    msg.name = list(joint_names)
    msg.position = array("d", positions)
    msg.velocity = array("d", velocities)


def _values(given: Any, what: str, names: list[str], rows: list[int]) -> np.ndarray:
    if len(given) != len(names):
        raise ValueError(
            f"joint state has {len(names)} names and {len(given)} {what} values; expected as many: check the driver"
        )
    return np.asarray(given, dtype=np.float64)[rows]
