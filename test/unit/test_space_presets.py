"""The packaged spaces: what their numbers are on a robot, by hand from the conventions that they are of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from space_cases import ARM, HOME, ROBOT

from vla_ros.policies.config import DataConfig
from vla_ros.share import share_path
from vla_ros.spaces.components import RobotJoints
from vla_ros.strict import parse_config, parse_yaml
from vla_ros.transforms.normalize import MODES

PRESETS = sorted(path.stem for path in share_path("config/spaces").glob("*.yaml"))
SO101 = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
ROBOTIQ = "robotiq_85_left_knuckle_joint"
UR5E = (
    *(f"{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")),
    ROBOTIQ,
)
FRANKA = (*(f"fer_joint{i}" for i in range(1, 8)), ROBOTIQ)
SIDE = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "finger")
ALOHA = tuple(f"{side}_{name}" for side in ("left", "right") for name in SIDE)
LIBERO = (*ARM, "panda_finger_joint1")
LIMITS = {
    **{name: (-1.0, 2.0) for name in (*SO101[:-1], *UR5E[:-1], *FRANKA[:-1], *ALOHA)},
    "gripper": (-0.2, 1.8),
    ROBOTIQ: (0.0, 0.8),
    **{f"{side}_finger": (0.021, 0.057) for side in ("left", "right")},
    **ROBOT.limits,
    LIBERO[-1]: (0.0, 0.04),
}
JOINTS = {
    "so101_degrees": SO101,
    "so101_range": SO101,
    "pi0_relative": SO101,
    "droid": FRANKA,
    "ur5e": UR5E,
    "ur5e_served": UR5E,
    "aloha": ALOHA,
    "aloha_served": ALOHA,
    "libero": LIBERO,
    "vla_scratch_libero": LIBERO,
}
SIZES = {
    "droid": (8, 8),
    **dict.fromkeys(("ur5e", "ur5e_served"), (7, 7)),
    **dict.fromkeys(("aloha", "aloha_served"), (14, 14)),
    **dict.fromkeys(("libero", "vla_scratch_libero"), (8, 7)),
}


def data_of(preset: str) -> DataConfig:
    """The packaged space, on a robot of those joints."""
    declared = parse_yaml(share_path(f"config/spaces/{preset}.yaml").read_text())
    document: dict[str, Any] = {"joint_names": list(JOINTS[preset]), "action_horizon": 3, "normalization": MODES[0]}
    data = parse_config(DataConfig, document | declared, "data")
    limits = {name: list(LIMITS[name]) for name in JOINTS[preset]}
    return replace(data, joint_limits=limits, kinematics=ROBOT.kinematics)


def numbers(preset: str, key: str, target: Any, measured: Any = None) -> np.ndarray:
    """What the joints ``target`` are as a state, or as the first action from ``measured``."""
    data = data_of(preset)
    space, row = (data.state_space if key == "state" else data.action_space), np.array(target, float)
    return space.encode(row[None], row if measured is None else np.array(measured, float))[0]


def test_there_is_one_for_each_convention() -> None:
    assert set(JOINTS) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_its_numbers_are_as_many_as_the_policies_have_and_come_back(preset: str) -> None:
    data, rng = data_of(preset), np.random.default_rng(0)
    assert (data.state_space.size, data.action_space.size) == SIZES.get(preset, (6, 6))
    low, high = np.array([LIMITS[name] for name in JOINTS[preset]]).T
    start = (low + high) / 2
    if preset.endswith("libero"):
        start[:7] = HOME
    targets = start + np.cumsum(rng.uniform(-0.02, 0.02, (3, len(low))) * (high - low), axis=0)
    grips = [index for index, name in enumerate(JOINTS[preset]) if name in (ROBOTIQ, LIBERO[-1])]
    targets[:, grips] = high[grips]
    space = data.action_space
    decoded = space.decode(space.encode(targets, start), start)
    if preset.endswith("libero"):
        chain = RobotJoints(LIBERO, LIMITS, 0.05, kinematics=ROBOT.kinematics).chain("", "")
        np.testing.assert_allclose(chain.poses(decoded), chain.poses(targets), atol=1e-6)
        decoded, targets = decoded[:, 7:], targets[:, 7:]
    np.testing.assert_allclose(decoded, targets, atol=1e-6)


def test_an_so101_has_degrees_from_the_middle_of_its_range_or_a_share_of_it() -> None:
    joints = [0.5, 1.0, 2.0, -1.0, 0.5, 1.8]  # their middle is 0.5
    degrees = np.rad2deg([0.0, 0.5, 1.5, -1.5, 0.0])
    np.testing.assert_allclose(numbers("so101_degrees", "state", joints), [*degrees, 100.0])
    np.testing.assert_allclose(numbers("so101_degrees", "action", joints), [*degrees, 100.0])
    np.testing.assert_allclose(numbers("so101_range", "state", joints), [0, 100 / 3, 100, -100, 0, 100], atol=1e-9)
    relative = numbers("pi0_relative", "action", joints, measured=[0.5, 0.9, 2.0, -1.0, 0.5, 0.0])
    np.testing.assert_allclose(relative, [0, np.rad2deg(0.1), 0, 0, 0, 100], atol=1e-9)


def test_droid_has_velocities_of_a_fifth_of_a_radian_and_a_gripper_that_is_open_at_0() -> None:
    joints = [0.1] * 7 + [0.8]
    np.testing.assert_allclose(numbers("droid", "state", joints), [0.1] * 7 + [1.0])
    space, measured = data_of("droid").action_space, np.zeros(8)
    decoded = space.decode(np.array([[2.0, 1.0, 0, 0, 0, 0, 0, 0.6], [0.5, 0, 0, 0, 0, 0, 0, 0.4]]), measured)
    np.testing.assert_allclose(decoded[:, :2], [[0.2, 0.1], [0.3, 0.1]])
    np.testing.assert_allclose(decoded[:, -1], [0.8, 0.0])
    assert [slot.camera for slot in data_of("droid").slots] == ["exterior", "wrist"]


def test_a_ur5e_moves_from_where_it_was_seen_and_its_gripper_goes_where_it_is_told() -> None:
    action = numbers("ur5e", "action", [0.3] * 6 + [0.4], measured=[0.1] * 6 + [0.8])
    np.testing.assert_allclose(action, [0.2] * 6 + [0.5])


def finger(angle: float) -> float:
    """Where 22 mm of horn and 36 mm of rod put an ALOHA's."""
    return 0.022 * np.sin(angle) + np.sqrt(0.036**2 - (0.022 * np.cos(angle)) ** 2)


def test_a_server_of_openpi_is_told_what_the_robot_measures_and_says_where_it_is_to_go() -> None:
    action = numbers("ur5e_served", "action", [0.3] * 6 + [0.4], measured=[0.1] * 6 + [0.8])
    np.testing.assert_allclose(action, [0.3] * 6 + [0.5])
    joints = [0.1] * 6 + [0.05] + [0.2] * 6 + [finger(1.0)]
    state = numbers("aloha_served", "state", joints)
    widths = [(width - 0.01844) / (0.05800 - 0.01844) for width in (joints[6], joints[13])]
    np.testing.assert_allclose(state, [*[0.1] * 6, widths[0], *[0.2] * 6, widths[1]], atol=1e-5)
    action = numbers("aloha_served", "action", joints, measured=[0.0] * 14)
    np.testing.assert_allclose(action[[0, 1, 13]], [0.1, 0.1, (1.0 + 0.6213) / (1.4910 + 0.6213)], atol=1e-9)


def test_aloha_turns_shoulder_and_elbow_the_other_way_and_its_grippers_are_a_motors_angle() -> None:
    joints = [0.1] * 6 + [finger(0.5476)] + [0.2] * 6 + [finger(1.0)]
    signs = np.array([1, -1, -1, 1, 1, 1])
    state = numbers("aloha", "state", joints)
    np.testing.assert_allclose(state, [*(0.1 * signs), 0.0, *(0.2 * signs), (1.0 - 0.5476) / 1.0820], atol=1e-9)
    action = numbers("aloha", "action", joints, measured=[0.0] * 14)
    np.testing.assert_allclose(action, [*(0.1 * signs), 0.0, *(0.2 * signs), 1.0 - 0.5476], atol=1e-9)


@pytest.mark.parametrize("preset", ["libero", "vla_scratch_libero"])
def test_libero_moves_the_tip_in_the_axes_of_its_base(preset: str) -> None:
    data, start = data_of(preset), np.array([*HOME, 0.04])
    chain = RobotJoints(LIBERO, LIMITS, 0.05, kinematics=ROBOT.kinematics).chain("", "")
    before = chain.poses(start)
    actions = np.array([[1, 0, 0, 0, 0, 0, 0.9], [0, 0, -0.5, 0, 0, 0.2, -0.9]], float)
    decoded = data.action_space.decode(actions, start)
    after = chain.poses(decoded)
    np.testing.assert_allclose(after[:, :, 3] - before[:, 3], [[0.05, 0, 0], [0.05, 0, -0.025]], atol=1e-6)
    turn = after[1, :, :3] @ before[:, :3].T
    np.testing.assert_allclose(turn[:2, :2], [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]], atol=1e-6)
    np.testing.assert_allclose(decoded[:, -1], [0.0, 0.04])
    state = data.state_space.encode(start[None], start)[0]
    np.testing.assert_allclose(state[:3], before[:, 3])
    np.testing.assert_allclose(state[-2:], [0.04, -0.04])
