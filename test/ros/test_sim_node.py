"""The simulated robot as a driver would be: its topics, its trajectory controller, its episodes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ros_harness import wait_until
from sim_harness import SimGraph

from vla_ros.messages.images import decode_image
from vla_ros.messages.times import time_to_ns
from vla_ros.robot import load_robot
from vla_ros.share import share_path
from vla_ros.sim.scene import sample_scene

pytest.importorskip("vla_ros.sim.world")
ROBOT = load_robot(share_path("config/robots/tabletop.yaml"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimGraph]:
    with SimGraph(ROBOT, tmp_path_factory.mktemp("sim"), "seed:=5") as graph:
        graph.wait_until_up()
        yield graph


def median_rate_hz(messages: list) -> float:
    return 1e9 / float(np.median(np.diff([time_to_ns(msg.header.stamp) for msg in messages])))


def test_it_starts_with_the_scene_of_its_seed_and_says_the_instruction(graph):
    wait_until(lambda: graph.tasks, "the instruction")
    assert graph.episodes[0]["seed"] == 5
    assert graph.tasks[0] == graph.episodes[0]["instruction"] == sample_scene(5, "eval").instruction


def test_cameras_and_joint_states_come_at_their_rates_with_the_robot_files_names_and_sizes(graph):
    wait_until(lambda: all(len(graph.images[name]) > 20 for name in ROBOT.camera_names), "images", 60.0)
    for camera in ROBOT.cameras:
        assert median_rate_hz(graph.images[camera.name]) >= 15.0
        image = decode_image(graph.images[camera.name][-1])
        assert image.shape == (camera.height, camera.width, 3)
        assert image.std() > 10
    assert median_rate_hz(graph.states) >= 49.0
    assert tuple(graph.states[-1].name) == ROBOT.joint_names


def test_a_reset_puts_the_arm_into_the_scene_and_names_the_block_asked_for(graph):
    scene = sample_scene(7, "eval")
    other = next(block.color for block in scene.blocks if block.color != scene.target_color)
    status = graph.start_episode(seed=7, target=other)
    assert (status["seed"], status["target"], status["status"]) == (7, other, "running")
    wait_until(lambda: other in graph.tasks[-1], "the instruction")
    wait_until(lambda: np.allclose(graph.positions, scene.start_joint_positions, atol=1e-3), "the start pose")


def test_a_trajectory_is_followed_by_joint_name_and_its_end_held(graph):
    graph.start_episode(seed=7)
    wanted = sample_scene(7, "eval").start_joint_positions + np.array([0.2, -0.1, 0.1, -0.1, 0.2, 0.3])
    graph.command(ROBOT.joint_names[::-1], wanted[::-1], time_s=0.5)
    wait_until(lambda: np.allclose(graph.positions, wanted, atol=0.02), "the end of the trajectory")
    num_states = len(graph.states)
    wait_until(lambda: len(graph.states) > num_states + 20, "joint states")
    np.testing.assert_allclose(graph.positions, wanted, atol=0.02)


@pytest.mark.parametrize(
    "joint_names, velocity, said",
    [
        (ROBOT.joint_names[:-1], 0.0, "lacks joint 'gripper'"),
        (ROBOT.joint_names[:-1] + ("tail",), 0.0, "unknown joint 'tail'"),
        (ROBOT.joint_names, 0.5, "last velocity is 0.5"),
    ],
)
def test_a_trajectory_the_controller_would_refuse_moves_nothing_and_is_logged(graph, joint_names, velocity, said):
    graph.start_episode(seed=8)
    start = sample_scene(8, "eval").start_joint_positions
    wait_until(lambda: np.allclose(graph.positions, start, atol=1e-3), "the start pose")

    def is_logged() -> bool:
        graph.command(joint_names, start[: len(joint_names)] + 0.5, time_s=0.1, velocity=velocity)
        return said in graph.sim.log

    wait_until(is_logged, said)
    np.testing.assert_allclose(graph.positions, start, atol=0.02)


def test_a_reset_that_cannot_be_read_is_logged_and_changes_nothing(graph):
    before = graph.episodes[-1]["episode"]
    graph.reset('{"seed": "seven"}')
    graph.reset('{"seed": 7, "target": "purple"}')
    wait_until(lambda: "sim/reset.seed is 'seven'" in graph.sim.log and "target 'purple'" in graph.sim.log, "log lines")
    assert graph.episodes[-1]["episode"] == before
