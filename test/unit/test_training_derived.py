"""A train config from what a newcomer has: a robot file, bags, and where the policy is to go."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_samples import at, storage_file, string, texts, write_bag

pytest.importorskip("torch")

from training_helpers import run, small_config

from vla_ros.cli.command_line import main
from vla_ros.policies.files import load_processor, open_policy
from vla_ros.share import policy_dir, robot_file, share_dir
from vla_ros.training.config import TrainConfig, complete_train_config, load_train_config, to_yaml
from vla_ros.training.derive import Wanted, derive

CONFIG_DIR = share_dir() / "config"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag in which nothing of a robot is."""
    return write_bag(tmp_path_factory.mktemp("recorded") / "bag", texts(3))


def derived(recorded: Path, robot: str, *overrides: str, **changes: Any) -> TrainConfig:
    wanted = Wanted(robot_file(robot), (str(recorded),), recorded.with_name("policy"))
    return complete_train_config(CONFIG_DIR, derive(replace(wanted, **changes)), overrides)


def test_an_arm_gets_the_small_policy_with_its_own_joints_and_cameras(recorded: Path) -> None:
    config = derived(recorded, "so101")
    assert config.data.joint_names[0] == "shoulder_pan" and config.data.camera_names == ("front", "wrist")
    assert (config.policy.action_dim, config.policy.state_dim, config.data.action_horizon) == (6, 6, 20)
    assert (config.processor.camera_height, config.processor.camera_width) == (480, 640)
    assert config.processor.buckets == (140, 160, 192, 256)
    assert config.start_from == str(policy_dir("tiny_touch").resolve()) and config.data.chunk_dt_s == 0.1
    assert config.run_dir == str(recorded.with_name("policy_run"))


def test_fixed_joints_are_seen_and_not_commanded_and_each_further_camera_makes_prompts_longer(
    recorded: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load(robot_file("tabletop").read_text())
    document["joints"].append({"name": "rail", "lower": 0, "upper": 1, "max_velocity": 1, "max_acceleration": 1})
    document["joints"][-1]["fixed"] = True
    document["cameras"].append({**document["cameras"][0], "name": "side", "topic": "side/image", "width": 64})
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(document))
    config = derived(recorded, str(tmp_path / "robot.yaml"))
    assert (config.policy.state_dim, config.policy.action_dim) == (7, 6)
    assert (config.processor.camera_height, config.processor.camera_width) == (0, 0), "each has its own"
    assert config.processor.buckets == (206, 226, 258, 322), "64 patches and two marks more"


def test_a_space_says_what_numbers_mean_and_how_far_apart_actions_are(recorded: Path) -> None:
    config = derived(recorded, "so101", space="so101_degrees")
    assert config.data.state[0]["unit"] == "deg" and config.data.action_mode is None
    assert config.data.chunk_dt_s == pytest.approx(1 / 30)


def test_a_policy_that_knows_the_robot_keeps_what_its_numbers_mean(recorded: Path) -> None:
    config = derived(recorded, "tabletop", start_from=str(policy_dir("tiny_touch_pose")))
    assert config.policy.action_dim == 7 and config.data.action[0]["type"] == "pose"
    assert config.data.kinematics is None, "it comes from the robot file"


def test_a_policy_of_random_weights_gets_its_cameras_and_the_pace_of_the_slowest(recorded: Path) -> None:
    config = derived(recorded, "aloha", policy="act")
    assert len(config.policy.cameras) == len(config.data.camera_names) == 3 and config.start_from == ""
    assert config.policy.cameras[0].size == (480, 640) and config.policy.action_dim == 14
    assert config.data.chunk_dt_s == pytest.approx(1 / 30) and config.lr.base == 1e-5


@pytest.mark.parametrize("overrides", [(), ("policy.action_horizon=25", "optimizer.num_steps=7")])
def test_what_is_derived_is_an_ordinary_config(recorded: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = derived(recorded, "so101", *overrides, space="so101_range")
    (tmp_path / "mine.yaml").write_text(to_yaml(config))
    assert load_train_config(CONFIG_DIR, str(tmp_path / "mine.yaml")) == config
    if overrides:
        assert (config.data.action_horizon, config.optimizer.num_steps) == (25, 7)


def test_a_config_of_ones_own_names_packaged_groups(tmp_path: Path) -> None:
    text = (CONFIG_DIR / "train" / "so101.yaml").read_text()
    (tmp_path / "my arm.yaml").write_text(text.replace("- base", "- /train/base"))
    assert load_train_config(CONFIG_DIR, str(tmp_path / "my arm.yaml")) == load_train_config(CONFIG_DIR, "so101")


def test_marks_of_episodes_in_a_bag_are_used(recorded: Path, tmp_path: Path) -> None:
    assert derived(recorded, "so101").episodes == "task"
    marked = write_bag(tmp_path / "marked", [("/vla_policy/episode", string("start"), at(0.1))])
    assert derived(recorded, "so101", bags=(str(recorded), str(storage_file(marked)))).episodes == "marker"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"policy": "nothing"}, "expected one of act, mid, pi-paligemma"),
        ({"policy": "pi-smol"}, "--policy pi-smol has no weights to start from"),
        ({"policy": "act", "start_from": str(policy_dir("tiny_touch"))}, "--policy act is a ActPolicy, --start-from"),
        ({"space": "nothing"}, "is neither a file nor one of aloha"),
        ({"space": "ur5e"}, "looks at cameras base, wrist; robot 'so101' has front, wrist: "),
        ({"bags": ("/nowhere",)}, "--bags: /nowhere does not exist"),
        ({"bags": (str(CONFIG_DIR / "train"),)}, "holds no rosbag2 bag"),
        ({"start_from": str(CONFIG_DIR)}, "policy"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(recorded: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as refused:
        derived(recorded, "so101", **changes)
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_a_policy_that_another_program_computes_is_not_trained(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_policy(policy_dir("tiny_touch"))
    monkeypatch.setattr("vla_ros.training.derive.open_policy", lambda folder: opened)
    monkeypatch.setattr(type(opened.processor.config), "runs_here", False)
    with pytest.raises(ValueError, match="is computed by another program; expected a policy directory that has weight"):
        derived(recorded, "so101")


def test_joints_of_a_space_that_the_robot_lacks_are_refused_with_those_it_has(recorded: Path, tmp_path: Path) -> None:
    numbers = [{"type": "joints", "joints": ["elbow"]}]
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"state": numbers, "action": numbers}))
    with pytest.raises(ValueError, match=r"--space .*: joint is 'elbow'; expected one of shoulder_pan, shoulder_lift"):
        derived(recorded, "so101", space=str(tmp_path / "space.yaml"))


@pytest.fixture(scope="module")
def small(bags: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that is trained in no time."""
    config = small_config(tmp_path_factory.mktemp("small"), bags, "optimizer.num_steps=1", "num_threads=1")
    run(config)
    return Path(config.output_dir)


QUICK = ("optimizer.num_steps=1", "optimizer.batch_size=8", "num_workers=1", "num_threads=1", "device=cpu")


def command(out: Path, *more: str | Path) -> list[str]:
    return ["train", "--robot", "tabletop", "--out", str(out), *map(str, more), *QUICK]


def test_one_command_trains_on_bags_in_several_places_and_its_run_goes_on_with_nothing_else(
    bags: list[Path], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "day").mkdir()
    shutil.copy(storage_file(bags[0]), tmp_path / "day" / "alone.mcap")
    (tmp_path / "day" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert main(command(Path("mine"), "--start-from", small, "--bags", bags[0], "day")) == 0
    said = capsys.readouterr().out
    assert "reading 2 bags from" in said and "not a bag: day/notes.txt" in said and "72 samples of 12 episodes" in said
    assert load_processor("mine").camera_size == (128, 128)
    (tmp_path / "mine").rename(tmp_path / "first")
    monkeypatch.chdir(tmp_path / "day")
    assert main(["train", "--resume", "../mine_run", "optimizer.num_steps=2"]) == 0
    said = capsys.readouterr().out
    assert "resumed from" in said and "optimizer.num_steps was 1 and is 2" in said and "run_dir" not in said
    assert open_policy(tmp_path / "mine").processor.digest != open_policy(tmp_path / "first").processor.digest


def test_weights_of_another_size_are_refused_before_any_bag_is_read(
    bags: list[Path], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    assert main(command(tmp_path / "mine", "--policy", "tiny_touch", "--start-from", small, "--bags", bags[0])) == 2
    said = capsys.readouterr().err
    assert "weights of another shape (" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("out", "named"),
    [
        ("notes.txt/policy", "is none that can be written to"),
        ("notes.txt", "is none that can be written to"),
        (".", "is the folder that this runs in"),
        ("bags/policy", "lies among the bags of"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_refused_before_any_bag_is_read(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, named: str
) -> None:
    shutil.copytree(recorded, tmp_path / "bags")
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    config = derived(tmp_path / "bags", "tabletop", "device=cpu", out=(tmp_path / out).resolve())
    with pytest.raises(ValueError, match=named):
        run(replace(config, run_dir=str(tmp_path / "run")))


def test_cfg_job_prints_what_would_run_and_runs_nothing(
    bags: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "mine", "--cfg", "job", "--bags", bags[0])) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["optimizer"]["num_steps"] == 1 and printed["bags"] == [str(bags[0])]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--robot", "tabletop"], "--bags and --out missing"),
        (["--config", "so101", "--robot", "tabletop"], "--config beside --robot"),
        (["--resume", "nowhere"], "it has no config.yaml"),
        (["--resume", "run", "--config", "so101"], "--resume beside --config"),
        (["--config", "nowhere.yaml"], "train config 'nowhere.yaml' does not exist"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *args]) == 2
    assert named in capsys.readouterr().err
