"""The simulated task: scenes, expert, and who judges success."""

import numpy as np
import pytest

from vla_ros.sim import kinematics
from vla_ros.sim.expert import MAX_JOINT_VELOCITY, Expert
from vla_ros.sim.robot import TOUCH_TIME_S, TouchEpisode
from vla_ros.sim.scene import (
    BLOCK_SIZE_M,
    COLORS,
    EVAL_PHRASES,
    MIN_BLOCK_DISTANCE_M,
    MIN_START_DISTANCE_M,
    TRAIN_PHRASES,
    WORKSPACE_M,
    sample_scene,
)
from vla_ros.sim.world import TabletopWorld


@pytest.fixture(scope="module")
def world():
    world = TabletopWorld(64, 64)
    yield world
    world.close()


def drive(world, scene, target_scene=None, seconds=8.0):
    """Let the expert for ``target_scene`` act in ``scene``; returns the judge."""
    world.reset(scene)
    expert, episode = Expert(target_scene or scene), TouchEpisode(world, scene)
    for step in range(round(seconds / world.control_dt_s)):
        if step % 4 == 0:
            command = expert.step(4 * world.control_dt_s)
        world.step(command)
        if episode.update() != "running":
            break
    return episode


def test_kinematics_and_its_inverse_agree():
    tip = np.array([0.35, -0.12, 0.09])
    assert np.allclose(kinematics.tip_position(kinematics.tool_down(tip)), tip, atol=1e-12)


def test_the_models_tip_is_where_the_kinematics_say(world):
    for seed in range(5):
        scene = sample_scene(seed)
        world.reset(scene)
        assert np.allclose(world.tip_position, kinematics.tip_position(scene.start_joint_positions), atol=1e-6)


def test_the_models_blocks_are_as_large_as_the_scene_says(world):
    for color in COLORS:
        (geom,) = world._model.body(color).geomadr
        assert np.allclose(2 * world._model.geom_size[geom], BLOCK_SIZE_M)


def test_every_scene_keeps_the_rules_of_the_task():
    for seed in range(200):
        scene = sample_scene(seed)
        assert [block.color for block in scene.blocks] == list(COLORS)
        tip = kinematics.tip_position(scene.start_joint_positions)
        for i, block in enumerate(scene.blocks):
            assert WORKSPACE_M[0][0] <= block.x_m <= WORKSPACE_M[0][1]
            assert WORKSPACE_M[1][0] <= block.y_m <= WORKSPACE_M[1][1]
            assert np.linalg.norm(tip - block.top) >= MIN_START_DISTANCE_M
            for other in scene.blocks[:i]:
                assert np.hypot(block.x_m - other.x_m, block.y_m - other.y_m) >= MIN_BLOCK_DISTANCE_M


def test_the_splits_share_neither_scenes_nor_phrases():
    assert not set(TRAIN_PHRASES) & set(EVAL_PHRASES)
    train, held_out = sample_scene(7, "train"), sample_scene(7, "eval")
    assert train.blocks != held_out.blocks
    assert sample_scene(7, "eval").blocks == held_out.blocks


def test_another_target_changes_the_instruction_and_nothing_else():
    scene = sample_scene(3)
    other = scene.with_target("blue")
    assert "blue" in other.instruction and other.blocks == scene.blocks
    with pytest.raises(ValueError, match="pink"):
        scene.with_target("pink")


def test_the_expert_succeeds_from_every_start(world):
    outcomes = [drive(world, sample_scene(seed)).status for seed in range(10)]
    assert outcomes == ["success"] * 10


def test_the_expert_keeps_its_velocity():
    scene = sample_scene(1)
    expert, last = Expert(scene), scene.start_joint_positions
    for _ in range(100):
        command = expert.step(0.02)
        assert np.abs(command - last).max() <= MAX_JOINT_VELOCITY * 0.02 + 1e-9
        last = command


def test_resting_on_another_block_first_is_a_failure(world):
    scene = sample_scene(2)
    other = next(color for color in COLORS if color != scene.target_color)
    episode = drive(world, scene, target_scene=scene.with_target(other))
    assert episode.status == "wrong_block"


def test_an_arm_that_never_moves_runs_out_of_time(world):
    scene = sample_scene(4)
    world.reset(scene)
    episode = TouchEpisode(world, scene)
    while episode.update() == "running":
        world.step(scene.start_joint_positions)
    assert episode.status == "timeout" and episode.elapsed_s == pytest.approx(8.0, abs=0.02)


def test_a_touch_shorter_than_the_rule_does_not_count(world):
    scene = sample_scene(5)
    world.reset(scene)
    expert, episode = Expert(scene), TouchEpisode(world, scene)
    while not episode._touched():
        world.step(expert.step(world.control_dt_s))
        episode.update()
    start_s = world.time_s
    while world.time_s - start_s < TOUCH_TIME_S - 0.03:
        world.step(expert.step(world.control_dt_s))
        assert episode.update() == "running"


def test_both_cameras_see_every_colour(world):
    scene = sample_scene(0)
    world.reset(scene)
    for camera in ("front", "top"):
        image = world.render(camera).astype(int)
        assert image.shape == (64, 64, 3)
        for i in range(3):
            others = [j for j in range(3) if j != i]
            assert (image[..., i] > 1.6 * image[..., others].max(-1) - (20 if i == 1 else 0)).sum() >= 3, (camera, i)
