"""``sensor_msgs/JointState`` to and from numpy, matched by joint name."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from vla_ros.messages.bounds import MAX_NAMES
from vla_ros.messages.times import fill_time
from vla_ros.strict import check_count, listed
from vla_ros.types import JointSample


def names_any(msg: Any, joint_names: Collection[str]) -> bool:
    """Whether a JointState message is about any of these joints; one of wheels or of another arm isn't."""
    return any(name in joint_names for name in msg.name)


def positions_by_name(msg: Any, joint_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and velocities of ``joint_names``, in that order, out of a JointState message.

    Returns ``[num_joints]`` float64 each, rad and rad/s; velocities are None where not every one of these joints has
    one: the driver sends none, fewer than names, or NaN, as for a joint without a velocity sensor. What the message
    says of further joints is ignored. Raises ValueError for too many names, a missing or repeated joint, another number
    of positions than of names, and a position that is not finite.
    """
    check_count("joint state", "names", msg.name, MAX_NAMES)
    names = list(msg.name)
    rows = [_row(names, name) for name in joint_names]
    if len(msg.position) != len(names):
        raise ValueError(
            f"joint state has {len(names)} names and {len(msg.position)} position values; expected as many: "
            "check the driver"
        )
    positions = np.asarray(msg.position, dtype=np.float64)[rows]
    worst = np.flatnonzero(~np.isfinite(positions))
    if len(worst):
        raise ValueError(
            f"joint state position of '{joint_names[worst[0]]}' is {positions[worst[0]]}; expected a finite number: "
            "check the driver"
        )
    # With fewer or more than names nobody knows whose each is.
    velocities = np.asarray(msg.velocity, dtype=np.float64)[rows] if len(msg.velocity) == len(names) else None
    return positions, velocities if velocities is not None and np.isfinite(velocities).all() else None


def joint_sample(msg: Any, joint_names: Sequence[str], stamp_ns: int, source: int = 0) -> JointSample | None:
    """What a JointState message says of the joints of a source, by the names it has for them: ``[num_joints]`` in that
    order, velocities NaN where it has none. None where it names none of them. Raises ValueError as
    ``positions_by_name``."""
    if not names_any(msg, joint_names):
        return None
    positions, velocities = positions_by_name(msg, joint_names)
    return JointSample(
        stamp_ns, positions, np.full_like(positions, np.nan) if velocities is None else velocities, source
    )


def fill_joint_state(
    msg: Any, joint_names: Sequence[str], positions: np.ndarray, velocities: np.ndarray, stamp_ns: int
) -> None:
    """Write ``positions`` and ``velocities`` ``[num_joints]`` into a JointState message."""
    fill_time(msg.header.stamp, stamp_ns)
    msg.name = list(joint_names)
    msg.position = array("d", positions)
    msg.velocity = array("d", velocities)


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
