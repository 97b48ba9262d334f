"""``trajectory_msgs/JointTrajectory`` to and from numpy, matched by joint name."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.messages.bounds import MAX_NAMES, MAX_POINTS
from vla_ros.messages.times import fill_time, time_to_ns
from vla_ros.strict import check_count, quoted
from vla_ros.units import NS_PER_S


@dataclass(frozen=True)
class Trajectory:
    """Set points in time: ``positions`` and ``velocities`` ``[num_points, num_joints]`` float64, rad and rad/s.

    ``times_s`` ``[num_points]`` counts from ``stamp_ns`` (0: from the moment of receipt); ``velocities`` is None where
    the message has none.
    """

    stamp_ns: int
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None


def parse_trajectory(msg: Any, joint_names: Sequence[str]) -> Trajectory:
    """A JointTrajectory message as a ``Trajectory`` whose columns are ``joint_names``.

    Raises ValueError for too many names, a joint that is missing, unknown or named twice, no points, points without
    positions or with a wrong number of values, velocities in some points only, a value that is not finite, and times
    that do not increase.
    """
    columns = _columns(list(msg.joint_names), joint_names)
    if not len(msg.points):
        raise ValueError("trajectory has no points; expected at least one")
    times_ns = np.array([time_to_ns(point.time_from_start) for point in msg.points], dtype=np.int64)
    if times_ns[0] < 0 or (np.diff(times_ns) <= 0).any():
        late = 0 if times_ns[0] < 0 else int(np.flatnonzero(np.diff(times_ns) <= 0)[0]) + 1
        raise ValueError(
            f"trajectory point {late} has time_from_start {times_ns[late] / NS_PER_S:g} s; "
            "expected strictly increasing times from 0 s on"
        )
    positions = _rows([point.positions for point in msg.points], "positions", columns)
    has_velocities = any(len(point.velocities) for point in msg.points)
    velocities = _rows([point.velocities for point in msg.points], "velocities", columns) if has_velocities else None
    return Trajectory(time_to_ns(msg.header.stamp), times_ns / NS_PER_S, positions, velocities)


def parse_teleop(msg: Any, joint_names: Sequence[str]) -> Trajectory:
    """What a human says, by name: the columns are ``joint_names``, NaN where the message doesn't name that joint.

    Raises ValueError as ``parse_trajectory`` does, where no joint is named, and for more points than any hand sends.
    """
    check_count("trajectory", "points", msg.points, MAX_POINTS)
    columns = [i for i, name in enumerate(joint_names) if name in msg.joint_names]
    if not columns:
        raise ValueError(f"trajectory names none of the joints {', '.join(joint_names)}")
    part = parse_trajectory(msg, [joint_names[i] for i in columns])
    positions = np.full((len(part.times_s), len(joint_names)), np.nan)
    positions[:, columns] = part.positions
    return Trajectory(part.stamp_ns, part.times_s, positions, None)


def fill_trajectory(
    msg: Any, trajectory: Trajectory, joint_names: Sequence[str], make_point: Callable[[], Any]
) -> None:
    """Write ``trajectory``, whose columns are ``joint_names``, into a JointTrajectory message.

    ``make_point`` makes an empty point message (``trajectory_msgs.msg.JointTrajectoryPoint``).
    """
    fill_time(msg.header.stamp, trajectory.stamp_ns)
    msg.joint_names = list(joint_names)
    points = []
    for row, time_s in enumerate(trajectory.times_s):
        point = make_point()
        fill_time(point.time_from_start, round(time_s * NS_PER_S))
        point.positions = array("d", trajectory.positions[row])
        if trajectory.velocities is not None:
            point.velocities = array("d", trajectory.velocities[row])
        points.append(point)
    msg.points = points


def join_trajectories(parts: Sequence[tuple[Sequence[int], Trajectory]], num_joints: int) -> Trajectory:
    """What several controllers were told at a time as one: the columns of each and its trajectory.

    It has as many points as each of them has, velocities where all have, and NaN for joints that none has.
    """
    first = parts[0][1]
    num_points = min(len(part.times_s) for _, part in parts)
    positions = np.full((num_points, num_joints), np.nan)
    velocities = np.full_like(positions, np.nan)
    for columns, part in parts:
        positions[:, columns] = part.positions[:num_points]
        if part.velocities is not None:
            velocities[:, columns] = part.velocities[:num_points]
    has_velocities = all(part.velocities is not None for _, part in parts)
    return Trajectory(first.stamp_ns, first.times_s[:num_points], positions, velocities if has_velocities else None)


def _columns(given: list[str], joint_names: Sequence[str]) -> list[int]:
    """Where each of ``joint_names`` stands in the message."""
    check_count("trajectory", "joint names", given, MAX_NAMES)
    repeated = [name for name in given if given.count(name) > 1]
    if repeated:
        raise ValueError(f"trajectory names joint '{quoted(repeated[0])}' twice; expected {', '.join(joint_names)}")
    unknown = [name for name in given if name not in joint_names]
    if unknown:
        raise ValueError(f"trajectory names unknown joint '{quoted(unknown[0])}'; expected {', '.join(joint_names)}")
    missing = [name for name in joint_names if name not in given]
    if missing:
        raise ValueError(f"trajectory lacks joint '{missing[0]}'; expected all of {', '.join(joint_names)}")
    return [given.index(name) for name in joint_names]


def _rows(rows: list[Any], what: str, columns: list[int]) -> np.ndarray:
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"trajectory point {i} has {len(row)} {what}; expected {len(columns)}, one for each joint")
    values = np.array(rows, dtype=np.float64)
    if not np.isfinite(values).all():
        i = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"trajectory point {i} has {what} that are not finite; expected finite numbers")
    return values[:, columns]
