"""The table of output interfaces: what is encoded is read again, whatever the interface."""

from __future__ import annotations

from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vla_ros.messages.trajectories import Trajectory, join_trajectories
from vla_ros.outputs import INTERFACES

JOINTS = ("a", "b")
PERIOD_S = 0.02
TRAJECTORY = Trajectory(0, np.array([0.02, 0.04]), np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[1.0, 2.0], [0, 0]]))


def new(msgtype: str) -> Any:
    """A message of a ROS type, as far as it is filled."""

    def time() -> Any:
        return SimpleNamespace(sec=0, nanosec=0)

    return SimpleNamespace(header=SimpleNamespace(stamp=time()), time_from_start=time(), velocities=(), msgtype=msgtype)


@pytest.mark.parametrize("name", [name for name, kind in INTERFACES.items() if kind.decode is not None])
def test_the_first_point_of_a_command_survives_its_message(name: str) -> None:
    kind = INTERFACES[name]
    msg = kind.encode(new, TRAJECTORY, JOINTS)
    assert msg.msgtype == kind.msgtype
    read = kind.decode(msg, JOINTS, PERIOD_S)
    np.testing.assert_array_equal(read.positions[0], TRAJECTORY.positions[0])
    assert read.times_s[0] == PERIOD_S


@pytest.mark.parametrize("name", [name for name, kind in INTERFACES.items() if kind.decode is not None])
def test_a_message_for_other_joints_is_refused_in_one_line(name: str) -> None:
    kind = INTERFACES[name]
    msg = kind.encode(new, TRAJECTORY, JOINTS)
    with pytest.raises(ValueError, match="expected") as refused:
        kind.decode(msg, (*JOINTS, "c"), PERIOD_S)
    assert "\n" not in str(refused.value) and "c" in str(refused.value)


def test_what_several_controllers_are_told_is_one_command_in_the_robots_order() -> None:
    hand = Trajectory(0, np.array([0.02]), np.array([[0.9]]), np.array([[3.0]]))
    whole = join_trajectories([((2, 0), TRAJECTORY), ((1,), hand)], 3)
    np.testing.assert_array_equal(whole.positions, [[0.2, 0.9, 0.1]])
    assert whole.velocities is not None
    np.testing.assert_array_equal(whole.velocities, [[2.0, 3.0, 1.0]])


def test_a_command_has_velocities_only_where_every_controller_is_told_some() -> None:
    hand = Trajectory(0, np.array([0.02]), np.array([[0.9]]), None)
    assert join_trajectories([((2, 0), TRAJECTORY), ((1,), hand)], 3).velocities is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("velocity", {"data": [1.0, 2.0]}),
        ("gripper_command", {"command.position": 0.1, "command.max_effort": 5.0}),
        ("parallel_gripper", {"command.name": ["a"], "command.position": [0.1], "command.effort": [5.0]}),
    ],
)
def test_what_a_controller_gets_that_does_not_say_positions(name: str, told: dict[str, Any]) -> None:
    kind, joints = INTERFACES[name], JOINTS if name == "velocity" else JOINTS[:1]

    def new_goal(msgtype: str) -> Any:
        assert msgtype == kind.msgtype
        return SimpleNamespace(command=SimpleNamespace())

    columns = TRAJECTORY if name == "velocity" else Trajectory(0, np.array([0.02]), np.array([[0.1]]), None)
    msg = kind.encode(new_goal, columns, joints)
    if kind.set_effort is not None:
        kind.set_effort(msg, 5.0)
    for path, value in told.items():
        found = attrgetter(path)(msg)
        assert (found if isinstance(found, float) else list(found)) == value
