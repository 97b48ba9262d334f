"""A gamepad's part without ROS: who holds on, what moves how fast, and devices that lack something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import ROBOT

from vla_ros.robot.parts import JointConfig
from vla_ros.teleop.joy import SILENCE_S, Axis, JoyLayout, JoySession, TipSteps

PERIOD_S = 0.05
HERE = np.array([0.2, -0.5])
DEADMAN, NEXT, TIP = 4, 5, 3
LAYOUT = JoyLayout((Axis(1), Axis(0, -1)), tuple(map(Axis, range(6))), DEADMAN, NEXT, TIP)


class FlatArm:
    """A chain whose tip is at x and y of its two joints, whatever way it is turned."""

    def poses(self, positions: np.ndarray) -> np.ndarray:
        return np.column_stack((np.eye(3), [*positions[:2], 0.0]))

    def follow(self, poses, positions, measured, step_s, with_rotation) -> None:
        positions[:, :2] = poses[:, :2, 3]


def session(**changes) -> JoySession:
    new = JoySession(ROBOT, replace(LAYOUT, **changes), PERIOD_S, 0.5, TipSteps(FlatArm(), PERIOD_S, 0.4, 2.0))
    say(new)
    new.drive("HOLD", HERE, 0.0)
    return new


def say(session: JoySession, *axes: float, down: tuple[int, ...] = (), now_s: float = 0.0) -> str:
    values = [*axes, *[0.0] * (8 - len(axes))]
    return session.hear(values, [int(i in down) for i in range(11)], now_s)


def driven(session: JoySession, num: int = 1, mode: str = "TELEOP") -> np.ndarray | None:
    for _ in range(num):
        target = session.drive(mode, HERE, 0.0)
    return target


def test_nothing_moves_and_nobody_takes_over_without_the_dead_man_button():
    new = session()
    say(new, 1.0, 1.0)
    assert driven(new) is None and not new.requests


def test_a_button_held_when_it_starts_is_not_pressed():
    new = JoySession(ROBOT, LAYOUT, PERIOD_S)
    say(new, 1.0, 1.0, down=(DEADMAN,))
    assert driven(new) is None and not new.requests


def test_who_holds_the_button_takes_over_and_the_axes_move_the_joints_at_their_share():
    new = session()
    say(new, 0.5, 1.0, down=(DEADMAN,))
    target = driven(new, 4)
    assert new.requests == ["takeover"]
    shares = np.array([1.0, -(0.5 - 0.1) / 0.9])
    np.testing.assert_allclose(target, HERE + 4 * shares * 0.5 * ROBOT.joint_values("max_velocity") * PERIOD_S)
    say(new, 0.09, -0.09, down=(DEADMAN,))
    np.testing.assert_allclose(driven(new, 3), target), "the dead zone"


@pytest.mark.parametrize("how", ["let go", "silence", "not finite"])
def test_the_robot_is_let_go_with_the_button_and_the_device(how):
    new = session()
    say(new, 1.0, down=(DEADMAN,))
    assert driven(new) is not None
    if how == "let go":
        say(new, 1.0)
    elif how == "not finite":
        assert "axis 0 is not finite" in say(new, np.nan, down=(DEADMAN,))
    assert new.drive("TELEOP", HERE, SILENCE_S + 0.01 if how == "silence" else 0.0) is None


def test_a_robot_that_somebody_else_takes_is_taken_back_only_by_another_press():
    new = session()
    say(new, 1.0, down=(DEADMAN,))
    driven(new)
    assert new.drive("POLICY", HERE, 0.0) is None and driven(new, mode="POLICY") is None
    say(new)
    driven(new, mode="POLICY")
    say(new, down=(DEADMAN,))
    assert driven(new, mode="POLICY") is not None and new.requests == ["takeover"] * 2


def test_a_target_stays_within_the_limits_however_long_a_stick_is_pushed():
    new = session()
    say(new, 1.0, 1.0, down=(DEADMAN,))
    np.testing.assert_allclose(driven(new, 500), [1.0, -2.0])


def test_a_button_goes_on_to_further_joints_but_not_to_those_that_are_fixed():
    extra = (JointConfig("rail", 0.0, 1.0, 1.0, 1.0, fixed=True), JointConfig("wrist", -1.0, 1.0, 1.0, 1.0))
    outputs = (replace(ROBOT.outputs[0], joints=("shoulder", "elbow", "wrist")),)
    robot = replace(ROBOT, joints=(*ROBOT.joints, *extra), outputs=outputs)
    new = JoySession(robot, LAYOUT, PERIOD_S)
    assert new.moved == "shoulder, elbow"
    for moved in ("wrist", "shoulder, elbow"):
        say(new)
        say(new, down=(NEXT,))
        assert new.moved == moved and moved in new.lines[-1]
    say(new)
    say(new, down=(NEXT,))
    say(new, down=())
    new.drive("HOLD", np.zeros(4), 0.0)
    say(new, 1.0, 1.0, down=(DEADMAN,))
    target = new.drive("TELEOP", np.zeros(4), 0.0)
    assert target[3] > 0.0 and not target[:3].any()


def test_a_button_goes_from_joints_to_the_tip_which_moves_along_the_axes_of_its_base():
    new = session()
    say(new, down=(TIP,))
    assert new.moved == "the tip"
    say(new, 1.0, -0.55, down=(DEADMAN,))
    step = 0.5 * 0.4 * PERIOD_S
    np.testing.assert_allclose(driven(new, 3), HERE + 3 * step * np.array([1.0, -0.5]))


def test_a_tip_that_would_be_too_fast_goes_on_in_its_direction_at_what_the_joints_allow():
    steps = TipSteps(FlatArm(), PERIOD_S, 40.0, 2.0)
    new = JoySession(ROBOT, LAYOUT, PERIOD_S, 0.5, steps)
    say(new, down=(TIP,))
    new.drive("HOLD", HERE, 0.0)
    say(new, 1.0, 0.55, down=(DEADMAN,))
    moved = driven(new) - HERE
    np.testing.assert_allclose(moved[1] / moved[0], 0.5)
    assert (np.abs(moved) <= 0.5 * ROBOT.joint_values("max_velocity") * PERIOD_S + 1e-12).all()


@pytest.mark.parametrize(
    ("why", "said"),
    [({}, "add kinematics: {urdf, base, tip}"), ({"no_tip": "poses need Pinocchio"}, "moved: poses need Pinocchio")],
)
def test_without_kinematics_the_tip_is_refused_in_one_line(why, said):
    new = JoySession(ROBOT, LAYOUT, PERIOD_S, **why)
    say(new, down=(TIP,))
    assert new.moved == "shoulder, elbow" and said in new.lines[-1]


@pytest.mark.parametrize(
    ("num_axes", "num_buttons", "named"),
    [(2, 11, "2 axes and 11 buttons; expected more than axis 5"), (8, 4, "8 axes and 4 buttons"), (8, 11, "")],
)
def test_a_device_that_lacks_an_axis_or_a_button_is_refused_by_what_it_has(num_axes, num_buttons, named):
    problem = session().hear([0.0] * num_axes, [0] * num_buttons, 0.0)
    assert named in problem and bool(problem) == bool(named)


@pytest.mark.parametrize("text", ["", "x", "1.5", "--1", "100"])
def test_an_axis_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected the index of an axis"):
        Axis.parse(text)


def test_an_axis_may_be_turned_round():
    assert Axis.parse("-0") == Axis(0, -1) and Axis.parse("12") == Axis(12)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"axes": ()}, "axes is empty"), ({"tip_axes": (Axis(0),)}, "tip_axes has 1 axes; expected 6")],
)
def test_a_layout_that_cannot_be_used_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(LAYOUT, **changes)
