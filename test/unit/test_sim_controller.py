from __future__ import annotations

import numpy as np
import pytest

from vla_ros.messages.trajectories import Trajectory
from vla_ros.sim.controller import TrajectoryController

REST = np.zeros((1, 2))


def trajectory(times_s, positions, velocities=None):
    given = None if velocities is None else np.array(velocities)
    return Trajectory(0, np.array(times_s), np.array(positions), given)


@pytest.fixture
def controller():
    return TrajectoryController(np.array([1.0, -1.0]))


def test_it_holds_where_it_was_put(controller):
    positions, velocities = controller.sample(123.0)
    np.testing.assert_array_equal(positions, [1.0, -1.0])
    np.testing.assert_array_equal(velocities, [0.0, 0.0])


def test_without_velocities_it_follows_a_line_from_the_desired_state_and_holds_the_end(controller):
    controller.accept(trajectory([1.0, 2.0], [[2.0, -1.0], [2.0, 0.0]]), now_s=10.0)
    np.testing.assert_allclose(controller.sample(10.5)[0], [1.5, -1.0])
    np.testing.assert_allclose(controller.sample(10.5)[1], [1.0, 0.0])
    np.testing.assert_allclose(controller.sample(11.25)[0], [2.0, -0.75])
    np.testing.assert_allclose(controller.sample(99.0)[0], [2.0, 0.0])
    np.testing.assert_allclose(controller.sample(99.0)[1], [0.0, 0.0])


def test_with_velocities_it_meets_every_point_in_position_and_velocity(controller):
    velocities = np.array([[0.3, -0.2], [0.0, 0.0]])
    controller.accept(trajectory([0.5, 1.0], [[1.2, -1.1], [1.3, -1.2]], velocities), now_s=0.0)
    position, velocity = controller.sample(0.5)
    np.testing.assert_allclose(position, [1.2, -1.1])
    np.testing.assert_allclose(velocity, [0.3, -0.2])
    # The reported velocity is the derivative of the reported position.
    h = 1e-6
    slope = (controller.sample(0.3 + h)[0] - controller.sample(0.3 - h)[0]) / (2 * h)
    np.testing.assert_allclose(controller.sample(0.3)[1], slope, atol=1e-6)


def test_a_new_trajectory_starts_from_the_desired_state_not_from_its_own_first_point(controller):
    controller.accept(trajectory([1.0], [[2.0, -1.0]], REST), now_s=0.0)
    position, velocity = controller.sample(0.4)
    controller.accept(
        trajectory([0.02, 0.5], [[1.5, -1.0], [1.6, -1.0]], np.array([[0.1, 0.0], [0.0, 0.0]])), now_s=0.4
    )
    np.testing.assert_allclose(controller.sample(0.4)[0], position)
    np.testing.assert_allclose(controller.sample(0.4)[1], velocity)


def test_a_stamp_in_the_past_skips_the_points_that_are_over(controller):
    controller.accept(trajectory([1.0, 2.0], [[5.0, 5.0], [2.0, 0.0]]), now_s=10.0, start_s=8.5)
    np.testing.assert_allclose(controller.sample(10.25)[0], [1.5, -0.5])
    np.testing.assert_allclose(controller.sample(10.5)[0], [2.0, 0.0])


def test_a_stamp_in_the_future_is_reached_from_now_on(controller):
    controller.accept(trajectory([1.0], [[3.0, -1.0]]), now_s=0.0, start_s=1.0)
    np.testing.assert_allclose(controller.sample(1.0)[0], [2.0, -1.0])


@pytest.mark.parametrize(
    "times_s, positions, velocities, start_s, said",
    [
        ([1.0], [[1.0, 2.0]], [[0.1, 0.0]], None, "last velocity is 0.1"),
        ([1.0], [[1.0, 2.0]], None, 3.0, "ended 6.000 s ago"),
    ],
)
def test_a_refused_trajectory_says_why_and_changes_nothing(controller, times_s, positions, velocities, start_s, said):
    with pytest.raises(ValueError, match=said):
        controller.accept(trajectory(times_s, positions, velocities), now_s=10.0, start_s=start_s)
    np.testing.assert_array_equal(controller.sample(20.0)[0], [1.0, -1.0])
