"""LeRobot data sets whose numbers are poses of a tip: read through the robot's kinematics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytest.importorskip("pinocchio")

from vla_ros.recordings.events import BagEvent, Command  # noqa: E402
from vla_ros.recordings.lerobot.opening import SetMeaning, open_set  # noqa: E402
from vla_ros.recordings.lerobot.write import EpisodeRows, SetLayout, SetWriter  # noqa: E402
from vla_ros.robot import RobotConfig, load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.spaces.files import joints_of  # noqa: E402
from vla_ros.spaces.space import Space, parse_space  # noqa: E402
from vla_ros.types import JointSample  # noqa: E402

FPS, NUM_ROWS = 10, 20
GRIPPER = {"type": "gripper", "joint": "gripper", "open": 1, "closed": 0}
POSE: dict[str, Any] = {"type": "pose", "rotation": "rotvec"}
DELTA = {**POSE, "translation": "scale", "translation_scale": 0.05, "rotation_scale": 0.5, "reference": "observation"}


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    whole = load_robot(robot_file("tabletop"))
    return replace(whole, cameras=(replace(whole.cameras[0], width=16, height=16),))


def path_of_joints() -> np.ndarray:
    """Faster than the robot file lets joints move."""
    times = np.linspace(0.0, 1.0, NUM_ROWS + 1)[:, None]
    wide = np.array([1.2, 0.5, 0.6, 0.8, 0.4, 0.3])
    return np.array([-0.6, 0.4, 0.9, 0.8, -0.2, 0.1]) + wide * np.sin(1.5 * times)


def space_of(robot: RobotConfig, where: str, *components: dict[str, Any]) -> Space:
    return parse_space(components, where, replace(joints_of(robot), chunk_dt_s=1 / FPS))


def write_set(folder: Path, robot: RobotConfig, state: list[dict[str, Any]], action: list[dict[str, Any]]) -> Path:
    """One episode along ``path_of_joints``; each action is where the arm is a row later."""
    joints = path_of_joints()
    measured, targets = joints[:-1], joints[1:]
    states = space_of(robot, "data.state", *state).encode(measured[:, None], measured)[:, 0]
    actions = space_of(robot, "data.action", *action).encode(targets[:, None], measured)[:, 0]
    sizes = (states.shape[1], actions.shape[1])
    names = [tuple(f"number_{i}" for i in range(size)) for size in sizes]
    notes = {"state": state, "action": action}
    writer = SetWriter(folder / "set", SetLayout("tabletop", FPS, *names, {"front": (16, 16)}, "h264", notes))
    drawn = writer.begin()
    for _ in range(NUM_ROWS):
        drawn.add({"front": np.zeros((16, 16, 3), np.uint8)})
    stamps_ns = (10**18 + 10**8 * np.arange(NUM_ROWS))[:, None].repeat(2, 1)
    none = [False] * NUM_ROWS
    writer.add(drawn, EpisodeRows(states, actions, ["reach"] * NUM_ROWS, [""] * NUM_ROWS, none, stamps_ns), "", "m", 0)
    writer.finish()
    return folder / "set"


def joints_in(events: list[BagEvent]) -> tuple[np.ndarray, np.ndarray]:
    """Measured and commanded."""
    measured = [event.said.positions for event in events if isinstance(event.said, JointSample)]
    commanded = [event.said.trajectory.positions[0] for event in events if isinstance(event.said, Command)]
    return np.array(measured), np.array(commanded)


@pytest.mark.parametrize(
    "action",
    [POSE, DELTA, {**DELTA, "reference": "previous"}, {**DELTA, "frame": "tip"}],
    ids=["absolute", "to the observation", "to the one before", "in the tip's axes"],
)
def test_the_robots_tip_goes_where_the_sets_went(action: dict[str, Any], tmp_path: Path, robot: RobotConfig) -> None:
    folder = write_set(tmp_path, robot, [POSE, GRIPPER], [action, GRIPPER])
    feed = open_set(folder, SetMeaning(), robot)
    measured, commanded = joints_in(list(next(feed.episodes())))
    poses, expected = space_of(robot, "data.state", POSE, GRIPPER), path_of_joints()
    for found, true in ((measured, expected[:-1]), (commanded, expected[1:])):
        made, wanted = (poses.encode(each[:, None], each)[:, 0] for each in (found, true))
        np.testing.assert_allclose(made, wanted, atol=2e-4)  # a set has 32 bits
    # An arm goes along them: no joint turns over from one row to the next.
    assert np.abs(np.diff(measured, axis=0)).max() < 0.3 and np.abs(commanded - measured).max() < 0.3
    lower, upper = (robot.joint_values(name) for name in ("lower", "upper"))
    assert ((measured >= lower - 1e-9) & (measured <= upper + 1e-9)).all()


def test_joints_that_a_state_says_beside_a_pose_are_taken_as_they_are(tmp_path: Path, robot: RobotConfig) -> None:
    joints = {"type": "joints", "joints": list(robot.joint_names)}
    folder = write_set(tmp_path, robot, [POSE, joints], [joints])
    measured, commanded = joints_in(list(next(open_set(folder, SetMeaning(), robot).episodes())))
    np.testing.assert_array_equal(measured, path_of_joints()[:-1].astype(np.float32))
    np.testing.assert_array_equal(commanded, path_of_joints()[1:].astype(np.float32))


def test_poses_that_are_not_of_this_arms_tip_are_refused(tmp_path: Path, robot: RobotConfig) -> None:
    folder = write_set(tmp_path, robot, [POSE, GRIPPER], [POSE, GRIPPER])
    notes = json.loads((folder / "meta/vla_ros.json").read_text())
    far = {**POSE, "translation": "scale", "translation_scale": 10.0}
    (folder / "meta/vla_ros.json").write_text(json.dumps({**notes, "state": [far, GRIPPER]}))
    with pytest.raises(
        ValueError, match=r"observation.state has 20 of 20 poses that the robot's tip can't have by what"
    ):
        open_set(folder, SetMeaning(), robot)
    (folder / "meta/vla_ros.json").write_text(json.dumps(notes))
    with pytest.raises(ValueError, match=r"a pose needs a URDF; add kinematics"):
        open_set(folder, SetMeaning(), replace(robot, kinematics=None))
    (folder / "meta/vla_ros.json").write_text(json.dumps({**notes, "state": [{**POSE, "tip": "nowhere"}, GRIPPER]}))
    with pytest.raises(ValueError, match="tip is 'nowhere', which the URDF doesn't have"):
        open_set(folder, SetMeaning(), robot)
