"""From demonstrations through bags to a policy directory, at a size that takes seconds."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from bag_helpers import read_bag
from bag_samples import at, image, joint_state, string, trajectory, write_bag
from PIL import Image
from safetensors.torch import load_file
from training_helpers import EPISODES, run, small_config

from vla_ros.bags.definitions import message_type, serialize
from vla_ros.bags.write import BagWriter
from vla_ros.demo import lesson
from vla_ros.policies.files import load_processor
from vla_ros.robot import load_robot
from vla_ros.share import policy_dir, robot_file, share_dir
from vla_ros.sim.demonstrations import write_demonstrations
from vla_ros.training.config import load_train_config
from vla_ros.training.dataset import FrameRule, load_bags
from vla_ros.training.metrics import METRICS
from vla_ros.training.run import policy_from
from vla_ros.training.samples import split_by_episode
from vla_ros.training.trainer import Trainer, learning_rate_scale
from vla_ros.transforms.images import resize


def resize_to_48(image):
    return resize(image, 48, 48, Image.Resampling.BICUBIC)


RULE = FrameRule(horizon=10, chunk_dt_s=0.1, offset=1.0, resize=resize_to_48)


@pytest.fixture(scope="module")
def frames(bags, robot):
    return load_bags(bags, robot, RULE).frames


def test_demonstrations_hold_the_robots_topics_with_their_own_messages(bags, robot):
    types = {message.topic: message.msgtype for message in read_bag(bags[0])}
    assert types == {
        "/front_camera/image_raw": "sensor_msgs/msg/Image",
        "/top_camera/image_raw": "sensor_msgs/msg/Image",
        "/joint_states": "sensor_msgs/msg/JointState",
        "/joint_trajectory_controller/joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
        "/vla_policy/task": "std_msgs/msg/String",
        "/sim/blocks": "std_msgs/msg/String",
    }


def test_demonstrations_already_there_are_not_made_again(bags, robot):
    before = bags[0].stat().st_mtime_ns
    assert list(write_demonstrations(bags[0].parent, robot, EPISODES)) == bags
    assert bags[0].stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_demonstrations(bags, robot, tmp_path):
    again = list(write_demonstrations(tmp_path, robot, EPISODES))
    first, second = (load_bags(paths, robot, RULE).frames for paths in (bags, again))
    assert np.array_equal(first.images[:], second.images[:]) and np.array_equal(first.actions, second.actions)


def test_every_frame_of_every_episode_becomes_a_sample(frames):
    assert len(frames) == EPISODES.num_episodes * EPISODES.num_frames
    assert frames.images.shape == (36, 2, 48, 48, 3) and frames.actions.shape == (36, 10, 6)
    assert len(frames.tasks) == len(frames.scenes) == 6
    assert all(set(scene) == {"red", "green", "blue"} for scene in frames.scenes)


def test_labels_are_the_commands_in_force_when_each_action_is_due(bags, frames):
    stamps, commands, first_image_ns = [], [], None
    for message in read_bag(bags[0]):
        if message.topic.endswith("joint_trajectory"):
            point = message.message.points[0]
            stamps.append(message.stamp_ns + point.time_from_start.nanosec)
            commands.append(np.array(point.positions))
        elif message.topic == "/front_camera/image_raw" and first_image_ns is None:
            first_image_ns = message.stamp_ns
    due_ns = first_image_ns + 300_000_000  # action 2, offset 1, 0.1 s apart
    stamps = np.array(stamps)
    after = int(np.searchsorted(stamps, due_ns))
    share = (due_ns - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    expected = commands[after - 1] + share * (commands[after] - commands[after - 1])
    assert np.allclose(frames.actions[0, 2], expected, atol=1e-9)


def test_no_episode_is_both_trained_on_and_judged_by(frames):
    split = split_by_episode(frames, 0.02)
    assert not set(frames.episode[split.train]) & set(frames.episode[split.validation])
    assert len(split.train) + len(split.validation) == len(frames)
    assert set(frames.episode[split.validation]) == {5}


def test_the_answer_names_every_block_and_its_cell():
    grid = lesson.CellGrid(cell_m=0.1, x_min_m=0.0, y_min_m=0.0, num_x=3, num_y=4)
    text = lesson.answer({"red": (0.25, 0.05), "blue": (0.0, 0.35)}, grid, np.random.default_rng(0))
    assert " red<loc008>" in text and " blue<loc003>" in text
    assert grid.token(9.0, 9.0) == "<loc011>", "a point off the grid belongs to the nearest cell"


def test_a_damaged_bag_is_named_and_the_good_ones_are_used(bags, robot, tmp_path):
    broken = tmp_path / bags[0].name
    shutil.copytree(bags[0], broken)
    data = next(broken.glob("*.mcap"))
    content = bytearray(data.read_bytes())
    content[2000:2400] = bytes(400)
    data.write_bytes(bytes(content))
    loaded = load_bags([broken, bags[0]], robot, RULE)
    assert len(loaded.frames) >= 36
    assert len(loaded.problems) == 1 and str(broken) in loaded.problems[0] and "message" in loaded.problems[0]


def test_bags_without_anything_usable_are_refused(robot, tmp_path):
    string = message_type("std_msgs/msg/String")
    with BagWriter(tmp_path / "empty") as bag:
        bag.add_topic("/vla_policy/task", "std_msgs/msg/String")
        bag.write("/vla_policy/task", serialize(string("touch the red block")), 1)
    with pytest.raises(ValueError, match="no usable frame"):
        load_bags([tmp_path / "empty"], robot, RULE)


def test_training_exports_a_directory_that_loads_and_acts(bags, robot, tmp_path):
    config = small_config(tmp_path, bags)
    lines = []
    report = run(config, lines.append)
    assert report.num_steps == 4 and report.num_samples == 36 and not report.problems
    assert np.isfinite(report.validation.error_rad).all() and np.isfinite(report.validation.ce_loss)
    processor = load_processor(config.output_dir)
    assert processor.joint_names == robot.joint_names
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [2, 4]


def test_training_goes_on_from_a_policy_with_longer_chunks(bags, tmp_path):
    short = small_config(
        tmp_path, bags, "policy.action_horizon=5", "data.action_horizon=5", "policy.max_frozen_actions=0"
    )
    run(short)
    start = load_file(Path(short.output_dir) / "model.safetensors")
    policy = policy_from(small_config(tmp_path, bags).policy, Path(short.output_dir))
    weights = dict(policy.named_parameters())
    longer = weights.pop("position_embedding_action")
    assert longer[:5].tolist() == start["position_embedding_action"].tolist()
    assert longer[5:].tolist() == [longer[4].tolist()] * 15
    assert all(torch.equal(weights[name], start[name]) for name in weights)
    further = small_config(tmp_path / "further", bags, f"start_from={short.output_dir}", "optimizer.num_steps=2")
    run(further)
    texts = [(Path(c.output_dir) / "processor" / "tokenizer.json").read_text() for c in (short, further)]
    assert texts[0] == texts[1]


def test_training_does_not_go_on_from_a_policy_of_other_shapes(bags, tmp_path):
    config = small_config(tmp_path, bags)
    run(config)
    wide = small_config(tmp_path, bags, "policy.action_expert_cfg.intermediate_size=64")
    with pytest.raises(
        ValueError,
        match=r"start_from .*: weights of another shape \(action_expert.* expected the same policy group",
    ):
        policy_from(wide.policy, Path(config.output_dir))


def test_training_goes_on_from_a_policy_whose_actions_are_others(tmp_path):
    """Those of the tip for the joints of the demo's policy."""
    pose = load_train_config(share_dir() / "config", "tiny_touch_pose", [])
    data = pose.data.bind(load_robot(robot_file("tabletop")))
    data.action_space.check_fit(pose.policy.action_dim, "policy.action_dim")
    start = policy_dir("tiny_touch")
    stored, policy = load_file(start / "model.safetensors"), policy_from(pose.policy, start)
    for name, weight in policy.named_parameters():
        begins_anew = name.startswith(("action_in_proj.weight", "action_out_proj"))
        assert begins_anew == (weight.shape != stored[name].shape), name
        assert begins_anew or torch.equal(weight, stored[name]), name


def record_driven(path, robot, namespace, answer=""):
    """A recording of the live robot: the policy drives, a human intervenes, two tasks; ``answer`` is that to a question
    about both."""
    said = [("vla_policy/task", string(f"touch the {color} block"), at(t)) for color, t in (("red", 0), ("green", 6))]
    for step in range(180):
        time_s = step * 0.05
        mode = "POLICY" if time_s < 3 else "TELEOP"
        positions = 0.3 * np.sin(time_s + np.arange(robot.num_joints))
        said.append((robot.joint_sources[0].topic, joint_state(at(time_s), robot.joint_names, positions), at(time_s)))
        said.append(("vla_policy/mode", string(mode), at(time_s)))
        command = trajectory(0, robot.joint_names, [positions + 0.01], 0.05)
        said.append((robot.outputs[0].command_topic, command, at(time_s)))
        for camera in robot.cameras if step % 4 == 0 else ():
            said.append((camera.topic, image(at(time_s), np.full((128, 128, 3), step, np.uint8)), at(time_s)))
    asked = string(json.dumps({"generation_prompt": "what do you see?", "generation_answer": answer}))
    said += [("vla_policy/generation", asked, at(time_s)) for time_s in ((0.1, 6.1) if answer else ())]
    said.sort(key=lambda message: message[2])
    return write_bag(path, [(f"/{namespace}/{topic}", message, stamp_ns) for topic, message, stamp_ns in said])


def test_a_live_recording_is_trained_on_as_its_config_says(robot, tmp_path):
    recorded = record_driven(tmp_path / "bags" / "live", robot, "left")
    weights = ("learn_from.policy=1", "learn_from.intervention=3", "before_takeover_s=0.5")
    live = ("namespace=left", "optimizer.num_steps=2", *weights)
    config = small_config(tmp_path, [recorded], *live)
    lines, weights = [], []

    class Watched(Trainer):
        def __init__(self, config, policy, samples, split, processes):
            weights.append(split.share.max() / split.share.min())
            super().__init__(config, policy, samples, split, processes)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vla_ros.training.run.Trainer", Watched)
        report = run(config, lines.append)
    assert report.num_episodes == 2 and report.num_by_driver.keys() == {"POLICY", "TELEOP"}
    assert report.num_interventions == report.num_by_driver["TELEOP"] and weights == [pytest.approx(3.0)]
    assert report.num_left_out["whose chunk another driver goes on with"] >= 9
    assert report.num_left_out["of the policy within before_takeover_s of a takeover"] > 0
    assert any("drivers: " in line and "POLICY" in line for line in lines)
    num = report.num_left_out["whose chunk another driver goes on with"]
    assert f"left out: {num} frames whose chunk another driver goes on with" in lines
    assert load_processor(config.output_dir).joint_names == robot.joint_names


def test_a_policy_with_words_learns_the_answers_of_the_bags_whatever_they_are(robot, tmp_path):
    live = ("namespace=left", "optimizer.num_steps=1", "optimizer.batch_size=64")
    without, answer = record_driven(tmp_path / "bags" / "live", robot, "left"), "a red block, and a mug"
    for name, path in (("no", without), ("an", record_driven(tmp_path / "more" / "live", robot, "left", answer))):
        run(small_config(tmp_path / name, [path], *live))
    ce_losses = [json.loads((tmp_path / name / "run" / METRICS).read_text())["ce_loss"] for name in ("no", "an")]
    assert ce_losses[0] == 0.0 and ce_losses[1] > 1.0


def test_an_answer_that_does_not_fit_is_refused_before_the_first_step(robot, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda *args: pytest.fail("it trained"))
    recorded = record_driven(tmp_path / "bags" / "live", robot, "left", "red " * 300)
    with pytest.raises(ValueError, match=r"episode 0 'touch the red block', sample \d+: the prompt has \d+ tokens;"):
        run(small_config(tmp_path, [recorded], "namespace=left"))


def test_what_lies_beside_the_bags_is_named_and_what_can_be_read_of_them_is(bags, tmp_path):
    shutil.copytree(bags[0], tmp_path / "bags" / "today" / "killed")
    (tmp_path / "bags" / "today" / "killed" / "metadata.yaml").unlink()
    (tmp_path / "bags" / "notes.txt").write_text("the good ones")
    lines = []
    config = small_config(tmp_path, bags, f"bags={tmp_path / 'bags'}", "optimizer.num_steps=1")
    assert run(config, lines.append).num_samples == 36
    assert f"skipped in {tmp_path / 'bags'}, not a bag: notes.txt" in lines


def contents(folder):
    """Every file below a folder, and every folder, with what is in it and when it was written."""
    paths = sorted(folder.rglob("*"))
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in [folder, *paths]}


def test_nothing_is_written_where_the_users_bags_lie_and_they_alone_are_trained_on(robot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded = record_driven(tmp_path / "mine" / "live", robot, "left")
    (tmp_path / "mine" / "notes.txt").write_text("the good ones")
    before, lines = contents(tmp_path / "mine"), []
    made = ("namespace=left", "optimizer.num_steps=1", "+lesson.demonstrations.num_episodes=2")
    wanted = (*made, "learn_from.policy=1")
    report = run(small_config(tmp_path, [recorded], *wanted), lines.append)
    assert contents(tmp_path / "mine") == before and not (tmp_path / "outputs").exists()
    assert report.num_episodes == 2 and report.num_by_driver.keys() == {"POLICY", "TELEOP"}
    assert any("no demonstrations are made" in line for line in lines)


def made_of(folder, num_episodes=EPISODES.num_episodes, seed=EPISODES.seed):
    """Overrides that train on the demonstrations of ``EPISODES`` in ``folder``."""
    made = (f"+lesson.demonstrations.num_episodes={num_episodes}", f"+lesson.demonstrations.seed={seed}")
    return (
        "bags=''",
        f"lesson.demonstrations_dir={folder}",
        *made,
        "+lesson.demonstrations.tail_s=2.08",
        "optimizer.num_steps=1",
    )


def test_without_bags_the_demonstrations_in_their_own_folder_are_trained_on(bags, tmp_path):
    before = contents(bags[0].parent)
    assert run(small_config(tmp_path, bags, *made_of(bags[0].parent))).num_samples == 36
    assert contents(bags[0].parent) == before


@pytest.mark.parametrize("beside", ["live", "demo_00000", "notes.txt"])
def test_demonstrations_are_not_written_beside_anything_else(bags, robot, tmp_path, beside):
    folder = tmp_path / "mine"
    if beside == "notes.txt":
        folder.mkdir()
        (folder / beside).write_text("not a bag")
    else:
        record_driven(folder / beside, robot, "left")
    before = contents(folder)
    with pytest.raises(
        ValueError, match="mine holds other things than demonstrations of .* set another lesson.demonstrations_dir"
    ) as no:
        run(small_config(tmp_path, bags, *made_of(folder)))
    assert "\n" not in str(no.value) and contents(folder) == before


@pytest.mark.parametrize("change", [{"num_episodes": 7}, {"seed": 4}])
def test_demonstrations_made_with_other_settings_are_not_taken_for_those_that_are_wanted(bags, tmp_path, change):
    with pytest.raises(
        ValueError, match=r"bags\d+ holds other things than demonstrations of .* set another lesson.demonstrations_dir"
    ):
        run(small_config(tmp_path, bags, *made_of(bags[0].parent, **change)))


@pytest.mark.parametrize("name", ["run_dir", "output_dir"])
@pytest.mark.parametrize("below", ["", "/run"])
def test_what_training_writes_does_not_go_among_the_bags(bags, tmp_path, name, below):
    before = contents(bags[0].parent)
    with pytest.raises(ValueError, match=f"{name} .* lies among the bags of"):
        run(small_config(tmp_path, bags, f"{name}={bags[0].parent}{below}"))
    assert contents(bags[0].parent) == before


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("namespace=right", "'/right/joint_states' is not in the bag"),
        ("episodes=marker", "'/left/vla_policy/episode' is not in the bag"),
        ("validation_share=0.9", "2 episode(s) and validation_share 0.9 leave none to train on"),
    ],
)
def test_a_config_that_leaves_nothing_to_train_on_is_refused_in_one_line(robot, tmp_path, override, named):
    recorded = record_driven(tmp_path / "bags" / "live", robot, "left")
    with pytest.raises(ValueError) as refused:
        run(small_config(tmp_path, [recorded], "namespace=left", override))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_a_batch_larger_than_what_there_is_to_train_on_is_told(bags, tmp_path):
    lines = []
    run(small_config(tmp_path, bags, "optimizer.batch_size=31", "optimizer.num_steps=1"), lines.append)
    (line,) = (line for line in lines if "batch_size" in line)
    assert line.endswith("is 31; each step takes all 24 samples")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimizer.num_step=3", "num_step"),
        ("+policy.hidden=3", "unknown key 'hidden'"),
        ("optimizer.num_steps=many", "expected a whole number"),
        ("optimizer.batch_size=0", "at least 1"),
        ("policy.type=os.system", "expected one of PiPolicy"),
        ("episodes=tasks", "episodes is 'tasks'; expected one of task, marker"),
        ("interventions=only", "interventions is no more; use learn_from, the weights of demonstration, intervention"),
        ("intervention_weight=3", "intervention_weight is called learn_from.intervention now; rename it"),
        ("learn_from={demonstration: 0, intervention: 0}", "learn_from is 0 for demonstration, intervention, policy"),
        ("learn_from.policy=-1", "learn_from.policy is -1; expected a finite number of at least 0"),
        ("before_takeover_s=-1", "before_takeover_s is -1; expected at least 0"),
        ("keep_failures=true", "episodes is 'task'; expected marker with keep_failures"),
        ("validate_every=0", "validate_every is 0; expected at least 1"),
        ("checkpoint_every=0", "checkpoint_every is 0; expected at least 1"),
        ("validation_share=-0.5", "validation_share is -0.5; expected at least 0"),
        ("min_frame_gap_s=-1", "min_frame_gap_s is -1; expected at least 0"),
        ("seed=-1", "seed is -1; expected at least 0"),
        ("num_threads=0", "num_threads is 0; expected at least 1"),
        ("+optimizer.max_grad_norm=0", "max_grad_norm is 0; expected a number above 0"),
    ],
)
def test_a_wrong_config_key_is_refused_in_one_line(bags, tmp_path, override, named):
    with pytest.raises(ValueError) as refused:
        small_config(tmp_path, bags, override)
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("lesson.name=push",), "lesson.name is 'push'; expected touch"),
        (("+lesson.demonstrations.num_episode=3",), "lesson.demonstrations: unknown key 'num_episode'"),
        (("~lesson",), "start_from and lesson are empty"),
    ],
)
def test_a_lesson_that_cannot_be_taught_is_refused_in_one_line(bags, tmp_path, overrides, named):
    with pytest.raises(ValueError) as refused:
        run(small_config(tmp_path, bags, *overrides))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_an_unknown_train_config_lists_the_known_ones():
    with pytest.raises(ValueError, match="tiny_touch"):
        load_train_config(share_dir() / "config", "nothing")


def test_a_policy_for_other_joints_than_the_robots_is_refused(bags, tmp_path):
    config = small_config(tmp_path, bags, "data.camera_names=[top,front]")
    with pytest.raises(ValueError, match="data.camera_names"):
        run(config)


def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path, bags):
    optimizer = small_config(tmp_path, bags, "optimizer.num_steps=100", "optimizer.warmup_steps=10").optimizer
    scales = [learning_rate_scale(optimizer, step) for step in range(101)]
    assert scales[0] == pytest.approx(0.1) and max(scales) == pytest.approx(1.0) and scales[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(scales[11:]))
