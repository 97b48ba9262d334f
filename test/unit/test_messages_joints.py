from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.messages.joints import fill_joint_state, joint_sample, positions_by_name
from vla_ros.messages.times import fill_time, time_to_ns

NAMES = ("base", "elbow")


def joint_state(names=("elbow", "wheel", "base"), position=(1.0, 2.0, 3.0), velocity=(0.1, 0.2, 0.3)):
    return SimpleNamespace(name=list(names), position=list(position), velocity=list(velocity))


def test_joints_are_matched_by_name_and_others_ignored():
    positions, velocities = positions_by_name(joint_state(), NAMES)
    np.testing.assert_array_equal(positions, [3.0, 1.0])
    np.testing.assert_array_equal(velocities, [0.3, 0.1])


def test_a_driver_without_velocities_gives_none():
    assert positions_by_name(joint_state(velocity=()), NAMES)[1] is None


def test_a_joint_without_a_velocity_sensor_does_not_cost_the_positions():
    positions, velocities = positions_by_name(joint_state(velocity=(float("nan"), 0.0, 0.0)), NAMES)
    assert np.isfinite(positions).all() and velocities is None


@pytest.mark.parametrize("velocity", [(0.1,), (0.1, 0.2), (0.1, 0.2, 0.3, 0.4)])
def test_velocities_that_are_not_as_many_as_names_are_taken_as_none(velocity):
    positions, velocities = positions_by_name(joint_state(velocity=velocity), NAMES)
    np.testing.assert_array_equal(positions, [3.0, 1.0])
    assert velocities is None


def test_a_foreign_joint_named_twice_costs_nothing():
    msg = joint_state(("elbow", "wheel", "base", "wheel"), (1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3, 0.4))
    positions, velocities = positions_by_name(msg, NAMES)
    np.testing.assert_array_equal([positions, velocities], [[3.0, 1.0], [0.3, 0.1]])


def test_a_sample_has_what_a_message_names_of_a_robots_joints_by_the_names_of_its_topic():
    sample = joint_sample(joint_state(), {"base": 0, "elbow": 2}, 3, stamp_ns=5)
    np.testing.assert_array_equal(sample.positions, [3.0, np.nan, 1.0])
    np.testing.assert_array_equal(sample.velocities, [0.3, np.nan, 0.1])
    assert np.isnan(joint_sample(joint_state(velocity=()), {"base": 0}, 1, 5).velocities).all()
    assert joint_sample(joint_state(), {"jaw": 0}, 1, 5) is None, "of another arm"
    with pytest.raises(ValueError, match="'wheel' twice"):
        joint_sample(joint_state(names=("wheel", "base", "wheel")), {"wheel": 0, "base": 1}, 2, 5)


@pytest.mark.parametrize(
    "msg, said",
    [
        (joint_state(names=("elbow", "wheel", "hip")), "lacks joint 'base'"),
        (joint_state(names=(), position=(), velocity=()), "no joints"),
        (joint_state(names=("base", "elbow", "base")), "'base' twice"),
        (joint_state(position=(1.0, 2.0)), "3 names and 2 position"),
        (joint_state(position=(1.0, 2.0, float("nan"))), "position of 'base' is nan"),
    ],
)
def test_a_joint_state_that_cannot_be_used_is_refused_in_one_line(msg, said):
    with pytest.raises(ValueError, match=said) as caught:
        positions_by_name(msg, NAMES)
    assert "\n" not in str(caught.value)


def test_a_bad_value_of_a_joint_nobody_uses_is_ignored():
    positions, _ = positions_by_name(joint_state(position=(1.0, float("nan"), 3.0)), NAMES)
    np.testing.assert_array_equal(positions, [3.0, 1.0])


def test_a_filled_joint_state_reads_back():
    msg = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)))
    fill_joint_state(msg, NAMES, np.array([1.0, 2.0]), np.array([3.0, 4.0]), stamp_ns=5)
    positions, velocities = positions_by_name(msg, NAMES)
    np.testing.assert_array_equal([positions, velocities], [[1.0, 2.0], [3.0, 4.0]])
    assert time_to_ns(msg.header.stamp) == 5


@pytest.mark.parametrize("value_ns", [0, 7, 1_999_999_999, 1_800_000_000_123_456_789, -1])
def test_times_survive_the_way_through_a_message(value_ns):
    time = SimpleNamespace(sec=0, nanosec=0)
    fill_time(time, value_ns)
    assert time_to_ns(time) == value_ns
    assert 0 <= time.nanosec < 1_000_000_000
