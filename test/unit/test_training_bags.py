"""Bags as ``vla_ros record`` writes them become training samples: groups, episodes, drivers, interventions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bag_samples import (
    JOINT_STATE,
    NUMBERS,
    array,
    at,
    image,
    joint_state,
    jpeg,
    storage_file,
    string,
    trajectory,
    write_bag,
)

from vla_ros.messages.trace import Trace, encode_trace
from vla_ros.policies.config import DataConfig
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, JointStateConfig, OutputConfig
from vla_ros.training.dataset import first_observation, load_bags
from vla_ros.training.episodes import FrameRule, LearnFrom
from vla_ros.training.samples import compute_split_stats, split_by_episode

JOINTS = ("yaw", "grip", "lift")
ROBOT = RobotConfig(
    name="two_groups",
    control_rate_hz=20.0,
    joints=tuple(JointConfig(name, -1.0, 1.0, 1.0, 5.0) for name in JOINTS),
    cameras=(CameraConfig("front", "front/image", 8, 6, 0.3), CameraConfig("wrist", "wrist/image", 8, 6, 0.3, True)),
    outputs=(
        OutputConfig("arm", ("lift", "yaw"), topic="arm/trajectory"),
        OutputConfig("hand", ("grip",), interface="forward", topic="hand/commands"),
    ),
)
PERIOD_S = 0.05


def halve(image):
    return image[::2, ::2]


ALL, HUMANS, POLICY = LearnFrom(1, 1, 1), LearnFrom(1, 1, 0), LearnFrom(0, 0, 1)
RULE = FrameRule(horizon=3, chunk_dt_s=0.1, offset=1.0, resize=halve, learn_from=ALL, before_takeover_s=0.0)
CHUNK_S = 0.3


def commanded(time_s):
    """Where the joints are to be then, in the robot file's order; they are measured 0.5 below."""
    return np.array([0.1, 0.02, -0.03]) * time_s + np.array([0.0, 0.3, 0.0])


def drive(start_s, end_s, mode="", commands=True, joints=True, offset=0.0):
    """The robot from one moment to another, with ``mode`` published before every command."""
    messages = []
    for step in range(round(start_s / PERIOD_S), round(end_s / PERIOD_S)):
        time_s = step * PERIOD_S
        if joints:
            messages.append(("joint_states", joint_state(at(time_s), JOINTS, commanded(time_s) - 0.5), at(time_s)))
        if step % 2 == 0:
            for topic, make in (("front/image", image), ("wrist/image", jpeg)):
                pixels = np.full((6, 8, 3), step % 256, np.uint8)
                messages.append((topic, make(at(time_s), pixels), at(time_s + 0.001)))
        if commands:
            yaw, grip, lift = commanded(time_s + PERIOD_S) + offset
            if mode:
                messages.append(("vla_policy/mode", string(mode), at(time_s + 0.002)))
            arm = trajectory(0, ("yaw", "lift"), [(yaw, lift), (9.0, 9.0)], PERIOD_S)
            messages.append(("arm/trajectory", arm, at(time_s + 0.002)))
            messages.append(("hand/commands", array(NUMBERS, np.array([grip])), at(time_s + 0.002)))
    return messages


def say(topic, text, time_s):
    return [(topic, string(text), at(time_s))]


def task(text, time_s):
    return say("vla_policy/task", text, time_s)


def marker(text, time_s):
    return say("vla_policy/episode", text, time_s)


def bag(path, *parts, namespace=""):
    messages = sorted((message for part in parts for message in part), key=lambda message: message[2])
    return write_bag(path, [(f"{namespace}/{topic}", message, stamp_ns) for topic, message, stamp_ns in messages])


def times_s(frames):
    """When each sample was taken, from where the first joint was."""
    return (frames.joint_positions[:, 0] + 0.5) / 0.1


def reach_s(frames):
    """When the last action of each sample is due that lies within its episode."""
    return times_s(frames) + 0.1 * frames.num_known


def load(*paths, robot=ROBOT, rule=RULE, **changes):
    return load_bags(list(paths), robot, replace(rule, **changes))


def test_groups_of_either_interface_become_one_label_in_the_robots_joint_order(tmp_path):
    loaded = load(bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 2.0)))
    frames = loaded.frames
    assert not loaded.problems and frames.tasks == ("lift it",)
    assert frames.images.shape[1:] == (2, 3, 4, 3)
    np.testing.assert_allclose(frames.joint_positions, [commanded(t) - 0.5 for t in times_s(frames)], atol=1e-9)
    # Commands come 2 ms after the state they go with.
    due = times_s(frames)[:, None] + np.array([0.1, 0.2, 0.3]) - 0.002
    end_s = 2.0  # the last command is held to the end of the episode, and beyond
    np.testing.assert_allclose(frames.actions, commanded(np.minimum(due, end_s)[..., None]), atol=1e-9)
    assert np.array_equal(frames.num_known, (due < end_s + 1e-6).sum(1)) and set(frames.num_known) == {1, 2, 3}
    assert times_s(frames)[-1] == pytest.approx(1.9), "the last frame of which something is known"


def test_compressed_and_raw_images_of_one_moment_are_one_observation(tmp_path):
    frames = load(bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 2.0))).frames
    shown = frames.images[:][:, :, 1, 1, 1].astype(int)
    steps = np.round(times_s(frames) / PERIOD_S).astype(int)
    assert np.abs(shown - steps[:, None]).max() <= 2


def test_a_recording_of_a_namespace_is_read_by_its_name(tmp_path):
    path = bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 1.0), namespace="/left")
    for namespace in ("left", "/left/"):
        assert len(load(path, rule=replace(RULE, namespace=namespace)).frames) == 10
    with pytest.raises(ValueError, match=r"'/joint_states' is not in the bag, which has /left/joint_states") as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_a_task_that_is_only_repeated_goes_on_and_another_one_begins_an_episode(tmp_path):
    tasks = task("lift it", 0.0) + task(" lift it ", 0.72) + task("drop it", 1.52) + task("", 2.5)
    frames = load(bag(tmp_path / "bag", tasks, drive(0.0, 4.0))).frames
    assert frames.tasks == ("lift it", "drop it")
    taken = times_s(frames)
    assert ((taken > 0.6) & (taken < 0.9)).any(), "no sample is lost where the task is repeated"
    for episode, start_s, end_s in ((0, 0.0, 1.52), (1, 1.52, 2.5)):
        inside = taken[frames.episode == episode]
        assert inside.min() >= start_s - 1e-6 and len(inside) > 5
        assert reach_s(frames)[frames.episode == episode].max() <= end_s + PERIOD_S


def test_an_image_taken_before_the_task_changed_is_none_of_the_new_episode(tmp_path):
    late = ("joint_states", "front/image", "wrist/image")
    messages = [(topic, said, stamp_ns + 150_000_000 * (topic in late)) for topic, said, stamp_ns in drive(0.0, 3.0)]
    path = bag(tmp_path / "bag", task("lift it", 0.0), task("drop it", 1.0), messages)
    loaded = load(path, rule=replace(RULE, offset=2.0))
    taken = times_s(loaded.frames)[loaded.frames.episode == 1]
    assert taken.min() == pytest.approx(1.0) and loaded.num_left_out["from before their episode"] == 1


def traced(text, time_s):
    """A chunk that was taken then, and its instruction."""
    line = encode_trace(Trace({"front": at(time_s - 0.1)}, (0.0,) * 3, text, at(time_s - 0.1), at(time_s)))
    return say("vla_policy/trace", line, time_s)


def test_a_task_that_was_a_parameter_is_taken_from_the_traces_as_in_a_replay(tmp_path):
    traces = [traced(text, t) for text, t in ((" lift it ", 0.5), ("lift it", 1.0), ("drop it", 2.0), ("drop it", 2.5))]
    loaded = load(bag(tmp_path / "bag", *traces, drive(0.0, 4.0)))
    assert loaded.frames.tasks == ("lift it", "drop it") and not loaded.problems
    taken = times_s(loaded.frames)
    assert taken.min() == pytest.approx(0.5) and taken.max() > 3.0
    assert loaded.num_left_out["without an instruction"] == 7, "two cameras, each seen before the first trace"


def test_a_task_that_was_published_is_not_that_of_the_traces(tmp_path):
    parts = task("lift it", 0.0), traced("drop it", 0.5), traced("drop it", 1.0), drive(0.0, 2.0)
    assert load(bag(tmp_path / "bag", *parts)).frames.tasks == ("lift it",)


def test_a_new_scene_of_the_demo_begins_an_episode_though_the_task_is_the_same(tmp_path):
    first, second = '{"red": [0.3, 0.1]}', '{"red": [0.2, 0.0]}'
    scenes = say("sim/blocks", first, 0.0) + say("sim/blocks", first, 0.7) + say("sim/blocks", second, 1.5)
    tasks = task("touch red", 0.0) + task("touch red", 0.71) + task("touch red", 1.51)
    frames = load(bag(tmp_path / "bag", scenes, tasks, drive(0.0, 3.0))).frames
    assert frames.scenes == ({"red": (0.3, 0.1)}, {"red": (0.2, 0.0)})


def asked(prompt, answer, time_s):
    text = json.dumps({"generation_prompt": prompt, "generation_answer": answer})
    return say("vla_policy/generation", text, time_s)


def test_a_question_and_its_answer_hold_from_when_they_are_said_to_the_end_of_the_episode(tmp_path):
    first = asked("what?", "a block", 0.0) + task("lift it", 0.01) + asked("where?", "left", 0.96)
    second = task("drop it", 2.0) + asked("", "done", 3.01)
    loaded = load(bag(tmp_path / "bag", first, second, drive(0.0, 4.0)))
    frames = loaded.frames
    assert not loaded.problems and len(frames.texts) == len(frames)
    for time_s, episode, text in zip(times_s(frames), frames.episode, frames.texts, strict=True):
        expected = ("what?", "a block") if time_s < 0.95 else ("where?", "left")
        if episode == 1:
            expected = ("", "done") if time_s > 3.05 else ("", "")
        assert (text.prompt, text.answer) == expected, time_s
    assert 0 < frames.num_answers < len(frames) and f"; {frames.num_answers} with an answer to learn" in loaded.lines[0]


@pytest.mark.parametrize("text", ["where?", "[]", '{"generation_prompt": "where?"}', '{"generation_prompt": 1}'])
def test_a_question_that_is_none_is_named_and_leaves_the_others(tmp_path, text):
    parts = task("lift it", 0.0), asked("what?", "a block", 0.0), say("vla_policy/generation", text, 0.5)
    loaded = load(bag(tmp_path / "bag", *parts, drive(0.0, 2.0)))
    (problem,) = loaded.problems
    assert "'/vla_policy/generation'" in problem and "\n" not in problem
    assert {text.answer for text in loaded.frames.texts} == {"a block"}


def test_markers_say_which_episodes_are_worth_learning_from(tmp_path):
    markers = [("start", 0.5), ("success", 1.5), ("start", 2.0), ("failure", 3.0), ("start", 3.5), ("discard", 4.5)]
    markers = [marker(*each) for each in (*markers, ("start", 5.0), ("start", 6.0), ("success", 7.0), ("start", 7.5))]
    path = bag(tmp_path / "bag", task("lift it", 0.0), *markers, drive(0.0, 8.5))
    by_marker = replace(RULE, episodes="marker")
    loaded = load(path, rule=by_marker)
    taken = times_s(loaded.frames)
    for episode, start_s, end_s in ((0, 0.5, 1.5), (1, 6.0, 7.0)):
        inside = taken[loaded.frames.episode == episode]
        assert inside.min() >= start_s - 1e-6 and len(inside) >= 5
        assert reach_s(loaded.frames)[loaded.frames.episode == episode].max() <= end_s + PERIOD_S
    assert loaded.frames.episode.max() == 1
    out = loaded.num_left_out
    assert out["of failed episodes"] >= 5 and out["of discarded episodes"] >= 5
    assert out["of episodes without an end"] >= 10, "one that is started again, and one that the bag's end cuts off"
    kept = load(path, rule=replace(by_marker, keep_failures=True))
    assert len(kept.frames.tasks) == 3 and "of failed episodes" not in kept.num_left_out
    by_task = load(path)
    assert len(by_task.frames.tasks) == 1, "markers don't matter to episodes by task"
    assert any("leaves nothing out where episodes is 'task'; train with" in line for line in by_task.problems)


def test_another_task_within_a_marked_episode_shares_its_end(tmp_path):
    tasks = task("lift it", 0.0) + task("drop it", 1.0) + task("lift it", 3.0) + task("drop it", 4.0)
    markers = marker("start", 0.2) + marker("success", 2.0) + marker("start", 2.5) + marker("discard", 5.0)
    path = bag(tmp_path / "bag", tasks, markers, drive(0.0, 5.5))
    assert load(path, rule=replace(RULE, episodes="marker")).frames.tasks == ("lift it", "drop it")


def test_episodes_by_marker_need_markers(tmp_path):
    path = bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 1.0))
    with pytest.raises(ValueError, match="'/vla_policy/episode' is not in the bag"):
        load(path, rule=replace(RULE, episodes="marker"))


def test_a_marker_that_means_nothing_is_named_and_changes_nothing(tmp_path):
    markers = marker("success", 0.1) + marker("start", 0.2) + marker("done", 0.8) + marker("success", 2.0)
    loaded = load(
        bag(tmp_path / "bag", task("lift it", 0.0), markers, drive(0.0, 2.5)), rule=replace(RULE, episodes="marker")
    )
    assert len(loaded.frames.tasks) == 1 and times_s(loaded.frames).max() > 1.5
    assert len(loaded.problems) == 2 and any("'done'; expected one of start" in line for line in loaded.problems)
    assert any("'success'" in line and "no 'start'" in line for line in loaded.problems)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """The policy drives, a human takes over and gives back, and the emergency stop ends it."""
    parts = [
        drive(0.0, 1.0, "HOLD"), drive(1.0, 2.0, "POLICY"), drive(2.0, 3.0, "TELEOP", offset=0.1),
        drive(3.0, 4.0, "POLICY"), drive(4.0, 5.0, "ESTOP"), drive(5.0, 6.0, "HOLD"),
        drive(6.0, 7.0, "TELEOP", offset=0.1),
    ]  # fmt: skip
    tasks = task("lift it", 0.0) + task("drop it", 3.5)
    return bag(tmp_path_factory.mktemp("driven") / "bag", tasks, *parts)


def test_no_sample_has_a_chunk_that_two_drivers_commanded_or_nobody(driven):
    loaded = load(driven)
    frames = loaded.frames
    spans = {"POLICY": ((1.0, 2.0), (3.0, 4.0)), "TELEOP": ((2.0, 3.0), (6.0, 7.0))}
    assert set(frames.driver) == set(spans)
    for taken, reach, driver in zip(times_s(frames), reach_s(frames), frames.driver, strict=True):
        assert any(start <= taken and reach <= end + 2 * PERIOD_S for start, end in spans[driver]), (
            f"a sample at {taken:.2f} s is said to be by {driver}"
        )
    human = frames.driver == "TELEOP"
    moves = frames.actions[:, :, 0] - frames.joint_positions[:, :1]
    assert moves[human].min() > 0.59 and moves[~human].max() < 0.54, "every step of a chunk is its driver's"
    assert frames.num_by_driver == {"POLICY": (~human).sum(), "TELEOP": human.sum()}
    assert loaded.num_left_out["in HOLD or ESTOP"] >= 20
    assert loaded.num_left_out["whose chunk another driver goes on with"] >= 10


def test_who_drove_is_learned_from_or_left_out_and_counted(driven):
    everything, humans, policy = (load(driven, learn_from=weights) for weights in (ALL, HUMANS, POLICY))
    assert set(humans.frames.driver) == {"TELEOP"} and set(policy.frames.driver) == {"POLICY"}
    assert len(humans.frames) + len(policy.frames) == len(everything.frames)
    assert humans.frames.is_intervention.all() and not policy.frames.is_intervention.any()
    assert humans.num_left_out["of which learn_from.policy is 0"] == len(policy.frames)
    assert policy.num_left_out["of which learn_from.intervention is 0"] == len(humans.frames)


def test_by_itself_training_learns_nothing_of_what_the_policy_did(driven, tmp_path):
    shown = bag(tmp_path / "shown", task("lift it", 0.0), drive(0.0, 2.0, "TELEOP"))
    rule = FrameRule(horizon=3, chunk_dt_s=0.1, offset=1.0, resize=halve)
    frames = load(driven, shown, rule=rule).frames
    assert set(frames.driver) == {"TELEOP"} and 0 < frames.is_intervention.sum() < len(frames)
    assert set(frames.weight[frames.is_intervention]) == {2.0} and set(frames.weight[~frames.is_intervention]) == {1.0}


def test_a_human_who_drives_throughout_demonstrates_and_intervenes_nowhere(tmp_path, driven):
    parts = drive(0.0, 0.5, "HOLD"), drive(0.5, 2.0, "TELEOP"), drive(2.0, 2.5, "HOLD")
    teleoperated = bag(tmp_path / "teleoperated", task("lift it", 0.0), *parts)
    scripted = bag(tmp_path / "scripted", task("lift it", 0.0), drive(0.0, 2.0))
    frames = load(teleoperated, scripted, learn_from=LearnFrom(1, 0, 0)).frames
    assert frames.num_by_driver == {"TELEOP": 12, "not recorded": 20} and not frames.is_intervention.any()
    with pytest.raises(
        ValueError, match=r"no usable frame in 2 bags; left out: .*32 of which learn_from.demonstration is 0"
    ):
        load(teleoperated, scripted, learn_from=LearnFrom(0, 1, 0))
    together = load(teleoperated, scripted, driven)
    assert together.frames.is_intervention.sum() == load(driven).frames.is_intervention.sum()


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ((0, 0, 0), "learn_from is 0 for demonstration, intervention, policy; expected a weight above 0 for one"),
        ((1, -1, 0), "learn_from.intervention is -1; expected a finite number of at least 0"),
        ((1, 1, float("nan")), "learn_from.policy is nan; expected a finite number"),
    ],
)
def test_weights_that_teach_nothing_are_refused(weights, named):
    with pytest.raises(ValueError, match=named):
        LearnFrom(*weights)


@pytest.mark.parametrize("between", ["", "HOLD", "ESTOP"])
def test_what_the_policy_did_right_before_a_takeover_is_not_learned(tmp_path, between):
    parts = drive(0.0, 3.0, "POLICY"), drive(3.0, 3.5, between or "TELEOP"), drive(3.5, 5.0, "TELEOP")
    path = bag(tmp_path / "bag", task("lift it", 0.0), *parts, drive(5.0, 7.0, "POLICY"))
    whole, cut = load(path), load(path, before_takeover_s=1.0)
    policy = [times_s(loaded.frames)[loaded.frames.driver == "POLICY"] for loaded in (whole, cut)]
    ends = [taken[taken < 3.0].max() + CHUNK_S for taken in policy]
    assert ends == pytest.approx([3.0, 2.0], abs=2 * PERIOD_S) and ends[1] < 2.01
    assert np.array_equal(*(taken[taken > 3.0] for taken in policy)), "after it the policy is learned from again"
    assert (cut.frames.driver == "TELEOP").sum() == (whole.frames.driver == "TELEOP").sum()
    left_out = cut.num_left_out["of the policy within before_takeover_s of a takeover"]
    assert left_out == len(whole.frames) - len(cut.frames) > 5


def test_a_policy_that_ends_in_hold_or_before_another_task_was_not_taken_over(tmp_path):
    stopped = bag(tmp_path / "stopped", task("lift it", 0.0), drive(0.0, 2.0, "POLICY"), drive(2.0, 3.0, "HOLD"))
    tasks = task("lift it", 0.0) + task("drop it", 2.5)
    parts = drive(0.0, 2.0, "POLICY"), drive(2.0, 3.0, "HOLD"), drive(3.0, 4.0, "TELEOP")
    done = bag(tmp_path / "done", tasks, *parts)
    for path in (stopped, done):
        assert len(load(path, before_takeover_s=1.0).frames) == len(load(path).frames)


def test_before_the_first_mode_nobody_knows_who_drove(tmp_path):
    loaded = load(bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 1.0), drive(1.0, 2.0, "POLICY")))
    assert set(loaded.frames.driver) == {"POLICY"} and times_s(loaded.frames).min() >= 1.0 - PERIOD_S
    assert loaded.num_left_out["from before the first vla_policy/mode"] >= 5


def test_lines_say_what_there_is_and_how_much_is_left_out_for_each_reason(driven):
    loaded = load(driven)
    summary, *left_out = loaded.lines
    for part in ("2 episodes", "POLICY", "TELEOP (", "of them interventions)"):
        assert part in summary
    assert [line.partition(" frames ")[::2] for line in left_out] == [
        (f"left out: {num}", reason) for reason, num in sorted(loaded.num_left_out.items())
    ]
    assert any(line.endswith("in HOLD or ESTOP") for line in left_out)


def test_interventions_are_drawn_as_many_times_as_often_as_asked(driven, tmp_path):
    last = bag(tmp_path / "last", task("lift it", 0.0), drive(0.0, 1.0))
    frames = load(driven, last, learn_from=LearnFrom(1, 5, 1)).frames
    split = split_by_episode(frames, 0.3)
    assert set(split.validation) == set(np.flatnonzero(frames.episode == 2))
    drawn = np.concatenate([split.draw(np.random.default_rng([7, step]), 32) for step in range(1000)])
    assert set(drawn) == set(split.train)
    times_drawn = np.bincount(drawn, minlength=len(frames))[split.train]
    human = frames.is_intervention[split.train]
    assert times_drawn[human].mean() / times_drawn[~human].mean() == pytest.approx(5.0, rel=0.1)
    again = split.draw(np.random.default_rng([7, 3]), 32)
    assert np.array_equal(again, split.draw(np.random.default_rng([7, 3]), 32))


def test_corrections_that_come_last_are_learned_from_and_not_only_judged_by(driven, tmp_path):
    shown = [bag(tmp_path / f"shown{number}", task("lift it", 0.0), drive(0.0, 1.0)) for number in range(4)]
    frames = load(*shown, driven).frames
    split = split_by_episode(frames, 0.4)
    assert frames.is_intervention[split.train].sum() == frames.is_intervention.sum()
    assert set(frames.episode[split.validation]) == {1, 2, 3} and set(frames.episode[split.train]) == {0, 4, 5}
    half = split_by_episode(frames, 0.5)
    assert set(frames.episode[half.validation]) == {2, 3, 5}, "of both kinds the last half"


def test_without_a_weight_every_batch_is_drawn_as_ever(driven):
    frames = load(driven).frames
    split = split_by_episode(frames, 0.3)
    expected = np.random.default_rng([7, 3]).choice(split.train, 8, replace=False)
    assert np.array_equal(split.draw(np.random.default_rng([7, 3]), 8), expected)
    assert len(split.draw(np.random.default_rng(0), 10_000)) == len(split.train)


def test_statistics_are_those_of_what_is_trained_on(driven):
    data = DataConfig(JOINTS, ("front", "wrist"), 3, 0.1)
    means = {}
    for weights in (HUMANS, POLICY):
        frames = load(driven, learn_from=weights).frames
        split = split_by_episode(frames, 0.5)
        means[weights] = compute_split_stats(frames, split, data)["action"].mean[0, 0]
    assert means[HUMANS] - means[POLICY] == pytest.approx(0.1, abs=1e-3), "a human's commands are 0.1 rad further"


def test_a_single_episode_cannot_both_train_and_judge(tmp_path):
    frames = load(bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 1.0))).frames
    with pytest.raises(ValueError, match="1 episode"):
        split_by_episode(frames, 0.02)


def test_nothing_is_learned_across_a_pause_of_commands_or_joint_states(tmp_path):
    parts = [
        drive(0.0, 1.0), drive(1.0, 2.0, commands=False), drive(2.0, 3.0), drive(3.0, 4.0, joints=False),
        drive(4.0, 5.0),
    ]  # fmt: skip
    strict = replace(ROBOT, joint_states=(JointStateConfig(max_age_s=0.06),))
    loaded = load(bag(tmp_path / "bag", task("lift it", 0.0), *parts), robot=strict)
    taken = times_s(loaded.frames)
    for taken_s in taken:
        assert not 0.8 < taken_s < 1.95 and not 3.05 < taken_s < 3.95, taken_s
    assert (taken > 2.5).any() and (taken > 4.3).any()
    assert loaded.num_left_out["without commands throughout their chunk"] >= 10
    assert loaded.num_left_out["without a joint state within joint_states.max_age_s"] >= 7


def test_messages_that_cannot_be_used_are_named_once_and_the_others_used(tmp_path):
    bad = [("joint_states", joint_state(at(t), JOINTS[:2], (0.0,)), at(t)) for t in (0.51, 0.52)]
    bad += say("vla_policy/mode", "DANCE", 0.53)
    bad += [("hand/commands", array(NUMBERS, np.zeros(2)), at(0.54))]
    bad += [("front/image", image(at(0.1), np.zeros((3, 3, 3), np.uint8)), at(0.55))]
    loaded = load(bag(tmp_path / "bag", task("lift it", 0.0), bad, drive(0.0, 2.0)))
    for part in ("2 names and 1 position values", "'DANCE'; expected one of HOLD", "command of 2 numbers"):
        assert sum(part in line for line in loaded.problems) == 1, loaded.problems
    assert any("(2 times)" in line for line in loaded.problems) and len(loaded.frames) >= 15
    assert set(loaded.frames.driver) == {""}


def test_a_topic_of_another_type_is_named(tmp_path):
    driven = drive(0.0, 1.0)
    messages = [(topic, string("x") if topic == "joint_states" else message, t) for topic, message, t in driven]
    with pytest.raises(ValueError, match=f"'/joint_states' holds std_msgs/msg/String; expected {JOINT_STATE}"):
        load(bag(tmp_path / "bag", task("lift it", 0.0), messages))


def test_a_bag_that_breaks_off_is_used_up_to_there(tmp_path):
    path = bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 20.0))
    whole = load(path).frames
    file = storage_file(path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    loaded = load(path)
    assert 50 < len(loaded.frames) < len(whole) and np.array_equal(loaded.frames.actions[:50], whole.actions[:50])
    assert any(str(path) in line for line in loaded.problems)


def test_a_folder_that_is_no_bag_is_named_and_the_others_are_used(tmp_path):
    (tmp_path / "none").mkdir()
    loaded = load(tmp_path / "none", bag(tmp_path / "bag", task("lift it", 0.0), drive(0.0, 1.0)))
    assert len(loaded.frames) == 10 and str(tmp_path / "none") in loaded.problems[0]


def test_the_first_observation_has_its_images_as_the_cameras_gave_them(driven):
    loaded = load(driven, learn_from=HUMANS)
    observation = first_observation(loaded, ROBOT, RULE)
    assert [image.shape for image in observation.images.values()] == [(6, 8, 3)] * 2
    assert list(observation.images) == ["front", "wrist"] and observation.task == "lift it"
    assert np.array_equal(observation.joint_positions, loaded.frames.joint_positions[0])
    assert observation.images["front"][0, 0, 0] == round(times_s(loaded.frames)[0] / PERIOD_S)
