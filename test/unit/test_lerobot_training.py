"""Training on LeRobot data sets: the samples of the live node's rule, alone and mixed with bags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("pyarrow")
pytest.importorskip("av")
from lerobot_set_helpers import FPS, NUM_ROWS, SET, copy_of, edit_info  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.files import open_policy  # noqa: E402
from vla_ros.recordings.lerobot.dataset import LeRobotSet  # noqa: E402
from vla_ros.recordings.lerobot.write import EpisodeRows, SetLayout, SetWriter  # noqa: E402
from vla_ros.robot import RobotConfig, load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.training.config import SetConfig  # noqa: E402
from vla_ros.training.dataset import first_observation, load_bags  # noqa: E402
from vla_ros.training.episodes import FrameRule, LearnFrom  # noqa: E402
from vla_ros.training.samples import split_by_episode  # noqa: E402
from vla_ros.training.sets import map_config  # noqa: E402

RULE = FrameRule(horizon=5, chunk_dt_s=1 / 30, offset=1.0, resize=lambda image: image[::60, ::80])
KEPT = SetConfig(str(SET))
QUICK = ("optimizer.num_steps=1", "optimizer.batch_size=4", "num_threads=1", "device=cpu", "validation_share=0.4")


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot(robot_file("so101"))


def test_labels_are_what_was_in_force_at_their_times_whatever_the_sets_rate(robot: RobotConfig) -> None:
    loaded = load_bags([KEPT], robot, RULE)
    frames = loaded.frames
    assert frames.tasks == ("put the block into the box",) * 2 and loaded.num_left_out["of failed episodes"] > 0
    source = LeRobotSet(SET)
    rows = source.rows(source.episodes[0])
    mapping = map_config(source, KEPT, robot)
    positions = mapping.positions(rows.states)
    targets = mapping.targets(rows.actions, positions)
    # The last command is due with the last row, after which nothing is known; a chunk reaches 5/30 s.
    assert np.bincount(frames.episode).tolist() == [NUM_ROWS - 1] * 2
    assert frames.num_known[: NUM_ROWS - 1].tolist() == [5] * (NUM_ROWS - 2) + [3]
    for sample in (0, 7, NUM_ROWS - 2):
        times_s = sample / FPS + (np.arange(5) + 1) / 30
        expected = [np.interp(times_s, rows.times_s, joint) for joint in targets.T]
        np.testing.assert_allclose(frames.actions[sample].T, expected, atol=1e-7)
        np.testing.assert_allclose(frames.joint_positions[sample], positions[sample], atol=1e-12)
    assert frames.num_by_driver == {"TELEOP": 2 * (NUM_ROWS - 1)} and not frames.is_intervention.any()
    seen = first_observation(loaded, robot, RULE)
    assert seen.images["front"].shape == (480, 640, 3) and seen.task == "put the block into the box"


def test_a_set_of_one_row_a_second_is_not_one_of_gaps(tmp_path: Path) -> None:
    names, num_rows = ("base.pos", "shoulder.pos", "wrist.pos"), 6
    layout = SetLayout("three_joints", 1.0, names, names, {"front": (24, 32), "top": (24, 32)}, "h264", {})
    writer = SetWriter(tmp_path / "slow", layout)
    drawn = writer.begin()
    for _ in range(num_rows):
        drawn.add(dict.fromkeys(layout.cameras, np.zeros((24, 32, 3), np.uint8)))
    joints = 0.1 * np.arange(num_rows)[:, None].repeat(3, 1)
    stamps_ns = (10**18 + 10**9 * np.arange(num_rows))[:, None].repeat(3, 1)
    nobody, none = [""] * num_rows, [False] * num_rows
    writer.add(drawn, EpisodeRows(joints, joints, ["reach"] * num_rows, nobody, none, stamps_ns), "", "made", 0)
    writer.finish()
    robot = load_robot(SET.parent / "three_joints.yaml")
    rule = FrameRule(horizon=2, chunk_dt_s=0.5, offset=1.0, resize=lambda image: image)
    frames = load_bags([SetConfig(str(tmp_path / "slow"))], robot, rule).frames
    np.testing.assert_allclose(frames.actions[:, :, 0], [[0.1 * row + 0.05, 0.1 * row + 0.1] for row in range(5)])


def test_a_humans_part_of_an_episode_that_the_policy_drove_is_an_intervention(robot: RobotConfig) -> None:
    rule = replace(RULE, keep_failures=True, learn_from=LearnFrom(0, 1, 0))
    loaded = load_bags([KEPT], robot, rule)
    frames = loaded.frames
    assert frames.tasks == ("give me the block",) and set(frames.driver) == {"TELEOP"} and frames.is_intervention.all()
    assert loaded.num_left_out["of which learn_from.demonstration is 0"] == 2 * (NUM_ROWS - 1)


def test_the_column_that_lerobot_writes_says_who_drove_as_well(tmp_path: Path, robot: RobotConfig) -> None:
    folder = copy_of(tmp_path)
    edit_info(lambda info: info["features"].pop("driver"))(folder)
    rule = replace(RULE, keep_failures=True, learn_from=LearnFrom(1, 2, 1), before_takeover_s=0.2)
    loaded = load_bags([SetConfig(str(folder))], robot, rule)
    corrected = loaded.frames.episode == 2
    # Where no human intervened the policy drove: the first two episodes are its own here.
    assert set(loaded.frames.driver[~corrected]) == {"POLICY"}
    # A human led from 0.8 to 1.6 s, and a chunk ends 1/6 s after its observation.
    assert loaded.frames.is_intervention[corrected].sum() == 6 and set(loaded.frames.weight) == {1.0, 2.0}
    assert loaded.num_left_out["of the policy within before_takeover_s of a takeover"] > 0
    only = load_bags([SetConfig(str(folder))], robot, replace(rule, learn_from=LearnFrom()))
    assert only.frames.is_intervention.all() and only.num_left_out["of which learn_from.policy is 0"] > 2 * NUM_ROWS - 5


def test_sets_are_drawn_by_their_weight(robot: RobotConfig) -> None:
    frames = load_bags([KEPT, replace(KEPT, weight=3.0)], robot, RULE).frames
    share = split_by_episode(frames, 0.25).share
    assert share is not None
    first, second = share[frames.weight[: len(share)] == 1.0], share[frames.weight[: len(share)] == 3.0]
    np.testing.assert_allclose(second / first[0], 3.0)
    with pytest.raises(ValueError, match="all that is left to train on has weight 0; expected some above 0"):
        split_by_episode(replace(frames, weight=0 * frames.weight), 0.25)
    with pytest.raises(ValueError, match=r"the weight of .* is -1; expected at least 0"):
        SetConfig("somewhere", weight=-1.0)


def test_one_command_trains_on_a_set_and_the_policy_has_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "--robot", "so101", "--out", str(tmp_path / "mine"), "--space", "so101_range"]
    assert main([*line, "--data", f"{SET}@0.5", "--data-space", "so101_degrees", *QUICK]) == 0
    assert "of 2 episodes" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "mine_run/config.yaml").read_text())
    assert config["sets"] == [{"path": str(SET), "space": "so101_degrees", "cameras": {}, "weight": 0.5}]
    stats = open_policy(tmp_path / "mine").processor.stats["action"]
    # Of -100 to 100 over the joint's travel, where the set has degrees.
    swing = np.ptp(30 * np.sin(np.linspace(0.0, 2.3) + 4))
    travel = np.rad2deg(np.ptp(load_robot(robot_file("so101")).joint_limits["wrist_roll"]))
    assert stats.q99[0, 4] - stats.q01[0, 4] == pytest.approx(swing * 200 / travel, rel=0.2)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (
            ["--data", str(SET), "--robot", "tabletop"],
            "joint is 'shoulder_pan'; expected one of base_yaw, shoulder_pitch",
        ),
        (["--data", f"{SET}@much"], f"the weight is 'much'; expected a number, as in {SET}@0.5"),
        (["--data", str(SET), f"{SET}@2"], "twice, so that its episodes would be trained on and judged by"),
        (["--data", str(SET), "--camera", "front"], "--camera is 'front'; expected FEATURE=NAME"),
        (["--data", str(SET.parent)], "has no meta/info.json; expected the folder of a LeRobot data set"),
        ([], "--bags missing; expected --robot FILE --bags BAG (or --data SET) --out DIR"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_before_anything_is_made(
    args: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--robot", "so101", "--out", str(tmp_path / "mine"), *args]) == 2
    assert named in capsys.readouterr().err and list(tmp_path.iterdir()) == []
