"""``sensor_msgs/JointState`` to and from numpy, matched by joint name."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_ros.messages.times import fill_time


def positions_by_name(msg: Any, joint_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and velocities of ``joint_names``, in that order, out of a JointState message.

    Returns ``[num_joints]`` float64 each, rad and rad/s; velocities are None where the driver sends none. Further
    joints in the message are ignored. Raises ValueError for a missing or repeated joint, a wrong number of values, and a
    value that is not finite.
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
    velocities = _values(msg.velocity, "velocity", names, rows) if len(msg.velocity) else None
    return positions, velocities


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
    values = np.asarray(given, dtype=np.float64)[rows]
    if not np.isfinite(values).all():
        worst = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"joint state {what} of '{names[rows[worst]]}' is {values[worst]}; expected a finite number: "
            "check the driver"
        )
    return values
