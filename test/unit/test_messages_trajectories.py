from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from bag_samples import trajectory

from vla_ros.bags.definitions import TYPES
from vla_ros.messages.bounds import count_points
from vla_ros.messages.trajectories import Trajectory, fill_trajectory, parse_trajectory
from vla_ros.topics import TRAJECTORY

NAMES = ("base", "elbow")


def point(time_s=0.02, positions=(1.0, 2.0), velocities=(0.0, 0.0)):
    sec, nanosec = divmod(round(time_s * 1e9), 1_000_000_000)
    return SimpleNamespace(
        time_from_start=SimpleNamespace(sec=sec, nanosec=nanosec),
        positions=list(positions),
        velocities=list(velocities),
    )


def message(*points, names=NAMES):
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    return SimpleNamespace(header=header, joint_names=list(names), points=list(points))


def test_columns_follow_the_given_joint_order():
    trajectory = parse_trajectory(message(point(), point(1.5, (3.0, 4.0), (5.0, 6.0)), names=("elbow", "base")), NAMES)
    np.testing.assert_allclose(trajectory.times_s, [0.02, 1.5])
    np.testing.assert_array_equal(trajectory.positions, [[2.0, 1.0], [4.0, 3.0]])
    np.testing.assert_array_equal(trajectory.velocities, [[0.0, 0.0], [6.0, 5.0]])


def test_a_trajectory_without_velocities_has_none():
    assert parse_trajectory(message(point(velocities=())), NAMES).velocities is None


@pytest.mark.parametrize(
    "msg, said",
    [
        (message(point(), names=("base", "hip")), "unknown joint 'hip'"),
        (message(point(positions=(1.0,), velocities=()), names=("base",)), "lacks joint 'elbow'"),
        (message(point(), names=("base", "base")), "'base' twice"),
        (message(), "no points"),
        (message(point(positions=())), "point 0 has 0 positions; expected 2"),
        (message(point(velocities=(1.0,))), "point 0 has 1 velocities; expected 2"),
        (message(point(), point(0.04, velocities=())), "point 1 has 0 velocities"),
        (message(point(positions=(1.0, float("nan")))), "positions that are not finite"),
        (message(point(velocities=(1.0, float("inf")))), "velocities that are not finite"),
        (message(point(0.04), point(0.04)), "point 1 has time_from_start 0.04 s.*strictly increasing"),
        (message(point(0.04), point(0.02)), "strictly increasing"),
        (message(point(-0.5)), "point 0 has time_from_start -0.5 s"),
    ],
)
def test_a_trajectory_that_cannot_be_used_is_refused_in_one_line(msg, said):
    with pytest.raises(ValueError, match=said) as caught:
        parse_trajectory(msg, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("velocities", [None, np.array([[0.1, 0.2], [0.0, 0.0]])])
def test_a_filled_trajectory_reads_back(velocities):
    written = Trajectory(9, np.array([0.02, 1.04]), np.array([[1.0, 2.0], [3.0, 4.0]]), velocities)
    msg = message()
    fill_trajectory(msg, written, NAMES, lambda: point(velocities=()))
    read = parse_trajectory(msg, NAMES)
    assert read.stamp_ns == 9
    np.testing.assert_allclose(read.times_s, written.times_s)
    np.testing.assert_array_equal(read.positions, written.positions)
    assert (read.velocities is None) == (velocities is None)


@pytest.mark.parametrize("frame", ["", "world", "abc"])
@pytest.mark.parametrize("names", [(), ("base",), ("base", "elbow", "a" * 33)])
def test_the_points_of_a_serialized_message_are_counted_without_reading_them(names, frame):
    for num in (0, 1, 1200):
        msg = trajectory(10**18, names, [[0.0] * len(names)] * num)
        msg.header.frame_id = frame
        assert count_points(bytes(TYPES.serialize_cdr(msg, TRAJECTORY))) == num
    assert count_points(b"") == count_points(b"\0\1\0\0" + b"\xff" * 100) == 0
