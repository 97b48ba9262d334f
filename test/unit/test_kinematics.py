"""Poses to joints and back: the arm of the demo as it is simulated, and paths that no arm can follow."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from space_cases import ARM, HAND, HOME, PATHS, ROBOT, arm_urdf, hard_paths, pose_space

from vla_ros.robot import KinematicsConfig, RobotConfig, load_robot
from vla_ros.share import share_path
from vla_ros.sim import kinematics as table_top
from vla_ros.sim.world import MODEL_PATH, mujoco
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.kinematics import Kinematics, kinematics_of, strip_urdf
from vla_ros.spaces.space import parse_space

TABLETOP = load_robot(share_path("config/robots/tabletop.yaml"))


def joints_of(robot: RobotConfig) -> RobotJoints:
    return RobotJoints(robot.joint_names, robot.joint_limits, 0.1, kinematics=kinematics_of(robot))


def test_the_tip_is_where_the_simulation_has_it() -> None:
    model = mujoco.MjModel.from_xml_path(str(MODEL_PATH))
    data, tip = mujoco.MjData(model), model.site("tip").id
    rng, chain = np.random.default_rng(0), joints_of(TABLETOP).chain("base", "tip")
    for _ in range(50):
        joints = rng.uniform(TABLETOP.joint_values("lower"), TABLETOP.joint_values("upper"))
        for name, position in zip(TABLETOP.joint_names, joints, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = position
        mujoco.mj_kinematics(model, data)
        pose = chain.poses(joints)
        np.testing.assert_allclose(pose[:, 3], data.site_xpos[tip], atol=1e-9)
        np.testing.assert_allclose(pose[:, :3], data.site_xmat[tip].reshape(3, 3), atol=1e-9)


def test_what_lies_out_of_reach_gives_the_nearest_pose_and_is_told() -> None:
    space = parse_space([{"type": "pose", "rotation": "none"}], "data.action", joints_of(TABLETOP))
    measured = np.array([0.0, 0.5, 1.4, 1.2, 0.0, 0.0])
    far = np.repeat([[2.0, 0.0, 0.16]], 40, axis=0)
    targets = space.decode(far, measured)
    assert abs(table_top.tip_position(targets[-1])[0] - (0.3 + 0.3 + 0.16)) < 1e-3
    assert space.shortfall(far, measured, targets).startswith("40 of 40 poses of 'tip' are missed by up to")
    near = space.encode(np.repeat(measured[None], 3, axis=0), measured)
    assert space.shortfall(near, measured, space.decode(near, measured)) == ""


def test_hard_paths_stay_within_limits_and_speeds_and_are_told() -> None:
    found = list(hard_paths(30))
    assert [path for path in found if not path.is_good] == []
    assert {path.kind for path in found if path.is_missed} <= set(PATHS[:2]) and any(path.is_missed for path in found)


def test_where_a_pose_leaves_a_choice_the_arm_stays_near_where_it_is() -> None:
    """A circle of the tip: after each round the elbow is where it was."""
    space, start = pose_space(), np.array([*HOME, 0.1])
    angle = np.linspace(0, 6 * np.pi, 181)[1:]
    path = np.repeat(space.encode(start[None], start), len(angle), axis=0)
    path[:, 1:3] += 0.05 * np.stack([np.sin(angle), np.cos(angle) - 1], axis=1)
    targets = space.decode(path, start)
    assert space.shortfall(path, start, targets) == ""
    assert np.abs(targets[59::60, :7] - HOME).max() < 0.02


def test_a_joint_that_only_is_measured_stays_there_and_one_that_mimics_follows() -> None:
    urdf = arm_urdf().replace(
        '<axis xyz="0 0 1"/></joint><link name="link3"/>',
        f'<axis xyz="0 0 1"/><mimic joint="{HAND}" multiplier="0.5" offset="0.1"/></joint><link name="link3"/>',
    )
    assert urdf != arm_urdf()
    kinematics = replace(ROBOT.kinematics, urdf=urdf, fixed=("joint1",))
    robot = RobotJoints(ROBOT.names, ROBOT.limits, 0.05, kinematics=kinematics)
    chain = robot.chain("", "")
    assert chain.names == tuple(name for name in (*ARM, HAND) if name not in ("joint1", "joint2"))
    start = np.array([0.3, 9.0, *HOME[2:], 0.5])
    same_pose = np.array([0.3, 0.35, *HOME[2:], 0.0])
    np.testing.assert_allclose(chain.poses(start), ROBOT.chain("", "").poses(same_pose), atol=1e-12)
    space = parse_space([{"type": "pose"}], "data.action", robot)
    targets = start + np.cumsum(np.full((5, 8), 0.01) * [0, 0, 1, 1, 1, 1, 1, 1], axis=0)
    decoded = space.decode(space.encode(targets, start), start)
    np.testing.assert_allclose(chain.poses(decoded), chain.poses(targets), atol=1e-6)
    assert (decoded[:, :2] == start[:2]).all()


@pytest.mark.parametrize(
    ("base", "tip", "names", "message"),
    [
        ("link0", "hand", (*ARM, HAND), "tip is 'hand', which the URDF doesn't have; expected one of link0, link1"),
        ("world", "tip", (*ARM, HAND), "base is 'world', which the URDF doesn't have"),
        ("tip", "link0", (*ARM, HAND), "base 'tip' does not carry tip 'link0'"),
        ("link0", "tip", ARM[:-1], "goes through joint 'joint7'; add it to joints in the robot file, with fixed: true"),
        ("link7", "tip", ARM, "the chain from 'link7' to 'tip' has no joint that an output drives"),
    ],
)
def test_a_chain_that_is_not_there_is_refused_in_one_line(base: str, tip: str, names: tuple, message: str) -> None:
    robot = RobotJoints(names, {}, 0.05, kinematics=ROBOT.kinematics)
    with pytest.raises(ValueError) as refused:
        robot.chain(base, tip)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_speed_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="max_velocity of joint 'joint1' is None; expected a number above 0"):
        Kinematics(arm_urdf(), "link0", "tip", {"joint1": None})


def test_a_joint_beyond_its_limits_comes_back_and_never_goes_further() -> None:
    start = np.array([3.0, *HOME[1:], 0.1])
    space = pose_space()
    path = np.repeat(space.encode(start[None], start), 10, axis=0)
    targets = space.decode(path, start)
    np.testing.assert_allclose(targets[:, 0], 3.0)
    path[:, :2] = path[:, :2] @ np.array([[0.9, -0.4], [0.4, 0.9]])
    assert np.abs(np.diff(space.decode(path, start)[:, 0])).max() < 0.2
    assert space.decode(path, start)[:, 0].max() <= 3.0


def test_a_robot_file_without_links_is_refused_for_poses(tmp_path) -> None:
    with pytest.raises(ValueError, match="add kinematics: {urdf, base, tip} to the file of robot 'tabletop'"):
        kinematics_of(replace(TABLETOP, kinematics=None))
    gone = replace(TABLETOP, kinematics=KinematicsConfig(str(tmp_path / "gone.urdf"), "base", "tip"))
    with pytest.raises(ValueError, match="gone.urdf: No such file"):
        kinematics_of(gone)


def test_poses_without_pinocchio_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pinocchio", None)
    with pytest.raises(ValueError, match=r"Pinocchio, which is not installed; pip install 'vla_ros\[kinematics\]'"):
        RobotJoints(ROBOT.names, ROBOT.limits, 0.05, kinematics=ROBOT.kinematics).chain("", "")


def test_a_urdf_is_kept_without_what_it_looks_like_and_weighs() -> None:
    text = (
        '<robot name="r"><link name="a"><visual/><inertial/></link><link name="b"/><transmission name="t"/>'
        '<joint name="j" type="continuous"><parent link="a"/><child link="b"/><axis xyz="0 0 1"/>'
        '<dynamics damping="1"/></joint></robot>'
    )
    kept = strip_urdf(text, "it")
    assert not any(tag in kept for tag in ("visual", "inertial", "transmission", "dynamics"))
    chain = RobotJoints(("j",), {"j": (-math.pi, math.pi)}, 0.1, kinematics=Kinematics(kept, "a", "b", {})).chain(
        "", ""
    )
    np.testing.assert_allclose(chain.poses(np.array([np.pi / 2]))[:, 0], [0, 1, 0], atol=1e-12)
