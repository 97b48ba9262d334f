"""Velocities, grippers and cranks: what numbers mean, and which declarations can't hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from space_cases import HAND, ROBOT, STEP_S, round_trip
from test_spaces import action_space as action_of_four
from test_spaces import one_joint

from vla_ros.spaces.space import COMPONENTS, Space, parse_space


def space(*components: dict[str, Any], where: str = "data.action") -> Space:
    return parse_space(components, where, ROBOT)


def rows(values: Any, joint: str) -> np.ndarray:
    """Joint positions in which one joint goes through ``values``."""
    joints = np.zeros((len(values), len(ROBOT.names)))
    joints[:, ROBOT.names.index(joint)] = values
    return joints


@pytest.mark.parametrize("kind", COMPONENTS)
def test_joints_come_back_from_the_numbers_of_every_component(kind: str) -> None:
    assert round_trip(kind, num_cases=60).is_good


VELOCITY = {"type": "joint_velocity", "joints": ["joint1", "joint2"]}


def test_velocities_lead_from_where_the_arm_was_measured_to_positions() -> None:
    measured = rows([0.3], "joint1")[0]
    decoded = space(VELOCITY | {"scale": 0.2}).decode(np.array([[1.0, 0.0], [-0.5, 0.25]]), measured)
    np.testing.assert_allclose(decoded[:, :2], [[0.5, 0.0], [0.4, 0.05]])
    decoded = space(VELOCITY | {"unit": "rad_per_s"}).decode(np.array([[1.0, 0.0]]), measured)
    np.testing.assert_allclose(decoded[0, :2], [0.3 + STEP_S, 0.0])


def test_a_velocity_beyond_one_scales_its_whole_group_down_and_what_is_left_comes_later() -> None:
    limited, measured = space(VELOCITY | {"scale": 0.2, "norm_limit": True}), rows([0.0], "joint1")[0]
    decoded = limited.decode(np.array([[2.0, 1.0]]), measured)
    np.testing.assert_allclose(decoded[0, :2], [0.2, 0.1])
    far = rows([0.3, 0.3, 0.3], "joint1")
    np.testing.assert_allclose(limited.encode(far, measured)[:, 0], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(limited.decode(limited.encode(far, measured), measured)[:, 0], [0.2, 0.3, 0.3])


GRIPPER = {"type": "gripper", "joint": HAND, "open": -1, "closed": 1}


@pytest.mark.parametrize(("open_at", "position"), [("upper", 0.9), ("lower", 0.1)])
def test_a_gripper_is_open_at_the_end_that_is_declared(open_at: str, position: float) -> None:
    declared, measured = space(GRIPPER | {"open_at": open_at}), np.zeros(len(ROBOT.names))
    np.testing.assert_allclose(declared.encode(rows([position], HAND), measured), [[-1.0]])
    np.testing.assert_allclose(declared.decode(np.array([[0.0]]), measured)[0, -1], 0.5)


def test_a_binary_gripper_is_at_one_end_and_stays_within_its_hysteresis() -> None:
    binary = space(GRIPPER | {"threshold": 0.0, "hysteresis": 0.4})
    values = np.array([[0.1], [0.3], [-0.1], [-0.3], [0.15]])
    from_open = binary.decode(values, rows([0.8], HAND)[0])[:, -1]
    from_closed = binary.decode(values, rows([0.2], HAND)[0])[:, -1]
    np.testing.assert_allclose(from_open, [0.9, 0.1, 0.1, 0.9, 0.9])
    np.testing.assert_allclose(from_closed, [0.1, 0.1, 0.1, 0.9, 0.9])
    np.testing.assert_allclose(binary.encode(rows([0.8, 0.2], HAND), np.zeros(8)), [[-1.0], [1.0]])


def test_each_component_has_a_reference_of_its_own() -> None:
    mixed = action_of_four({"type": "joint", "joint": "a", "reference": "observation"}, {"type": "joint", "joint": "b"})
    measured = np.array([0.5, 0.2, 0.0, 0.0])
    np.testing.assert_allclose(mixed.encode(np.array([[0.7, 0.3, 0.0, 0.0]]), measured), [[0.2, 0.3]])


def test_numbers_may_count_from_the_middle_of_a_joints_limits() -> None:
    degrees = one_joint(unit="deg", zero="middle")  # of 0 to 0.8 rad
    np.testing.assert_allclose(degrees.encode(np.full((1, 4), 0.8), np.zeros(4)), [[np.rad2deg(0.4)]])


def test_a_joint_that_turns_without_end_goes_the_short_way() -> None:
    turning = parse_space(
        [{"type": "joint", "joint": "joint1", "unit": "deg", "reference": "observation"}], "data.action", ROBOT
    )
    joints, measured = rows([-3.1], "joint1"), rows([3.1], "joint1")[0]
    long_way = turning.encode(joints, measured)[0, 0]
    endless = replace(turning, robot=replace(ROBOT, continuous=("joint1",)))
    short_way = endless.encode(joints, measured)[0, 0]
    assert long_way == pytest.approx(np.rad2deg(-6.2)) and short_way == pytest.approx(np.rad2deg(2 * np.pi - 6.2))
    assert endless.decode(np.array([[short_way]]), measured)[0, 0] == pytest.approx(2 * np.pi - 3.1)


def test_a_state_may_name_a_joint_twice_as_for_two_fingers() -> None:
    fingers = space({"type": "joint", "joint": HAND}, {"type": "joint", "joint": HAND, "sign": -1}, where="data.state")
    np.testing.assert_allclose(fingers.encode(rows([0.3], HAND), np.zeros(8)), [[0.3, -0.3]])


def test_a_crank_turns_where_its_finger_slides() -> None:
    crank = space({"type": "crank", "joint": HAND, "horn_m": 0.022, "rod_m": 0.036, "zero_rad": 0.5})
    upright = crank.encode(rows([0.058], HAND), np.zeros(8))[0, 0]
    assert upright == pytest.approx(np.pi / 2 - 0.5, abs=1e-6)
    level = crank.decode(np.array([[-0.5]]), np.zeros(8))[0, -1]
    assert level == pytest.approx(np.sqrt(0.036**2 - 0.022**2))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": ["joint"], "joint": HAND}, "type is ['joint']; expected one of joint, joints"),
        (VELOCITY, "a joint_velocity takes scale"),
        (VELOCITY | {"scale": 0.2, "unit": "rad_per_s"}, "a joint_velocity takes scale"),
        (VELOCITY | {"scale": 0}, "scale is 0"),
        (VELOCITY | {"unit": "deg_per_s"}, "unit is 'deg_per_s'; expected one of rad_per_s"),
        (GRIPPER | {"closed": -1}, "open and closed are both -1; expected two values that differ"),
        (GRIPPER | {"open_at": "left"}, "open_at is 'left'; expected one of upper, lower"),
        (GRIPPER | {"threshold": 1.0}, "threshold is 1; expected a value between -1 and 1"),
        (GRIPPER | {"threshold": 0.5, "hysteresis": 1.0}, "hysteresis is 1; expected at least 0 and less than 1"),
        (GRIPPER | {"hysteresis": 0.1}, "hysteresis is 0.1 without a threshold"),
        (GRIPPER | {"threshold": 0.0, "reference": "previous"}, "reference is 'previous' beside a threshold"),
        ({"type": "crank", "joint": HAND, "horn_m": 0.04, "rod_m": 0.03}, "horn_m is 0.04 and rod_m 0.03"),
        ({"type": "pose", "rotation": "euler"}, "rotation is 'euler'; expected one of rotvec, rpy, quat_xyzw"),
        ({"type": "pose", "translation": "scale"}, "translation is 'scale' and translation_scale None"),
        ({"type": "pose", "rotation": "quat_xyzw", "rotation_scale": 0.5}, "rotation_scale stands beside"),
        ({"type": "pose", "frame": "tip"}, "frame is 'tip' for an absolute pose"),
        ({"type": "pose", "tip": "hand"}, "data.action: tip is 'hand', which the URDF doesn't have; expected one of"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused_by_what_is_wrong(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        space(entry)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (VELOCITY | {"scale": 0.2}, "says how an action moves"),
        ({"type": "pose", "reference": "previous"}, "absolute in a"),
    ],
)
def test_what_only_an_action_can_be_is_refused_in_a_state(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space(entry, where="data.state")


POSE = {"type": "pose", "rotation": "rpy"}
FAR, WIDE = (0.5, 0.5, 0.5), (3.0, 1.5, 3.0)


@pytest.mark.parametrize(
    ("entry", "fitting", "wrong", "named"),
    [
        (
            {"type": "joints", "joints": ["joint1", "joint2"]},
            (2.9, 1.8),
            (2.0, 90.0),
            "joint 'joint2' are from -90 to 90 by the statistics, and span 3.6 as declared; expected another unit",
        ),
        (GRIPPER, (1.0,), (100.0,), "joint 'hand' are from -100 to 100 by the statistics, and span 2 as declared"),
        ({"type": "joint", "joint": HAND, "range": [1, 0]}, (1.0,), (100.0,), "and span 1 as declared"),
        (POSE, (*FAR, *WIDE), (500.0, 500.0, 500.0, *WIDE), "positions of a pose are from -500 to 500 m by the"),
        (POSE, (*FAR, *WIDE), (*FAR, 180.0, 90.0, 180.0), "angles of a pose are from -180 to 180 rad by the"),
        (POSE | {"translation": "mm"}, (500.0, 500.0, 500.0, *WIDE), (5e5, 0.0, 0.0, *WIDE), "from -500 to 500 m"),
    ],
)
def test_another_unit_than_the_declared_one_is_told_by_the_statistics(
    entry: dict[str, Any], fitting: tuple[float, ...], wrong: tuple[float, ...], named: str
) -> None:
    declared = space(entry)
    declared.check_values(-np.array(fitting), np.array(fitting))
    with pytest.raises(ValueError) as refused:
        declared.check_values(-np.array(wrong), np.array(wrong))
    assert named in str(refused.value) and str(refused.value).startswith("data.action[0]: ")
