from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.robot import load_robot
from vla_ros.share import share_path
from vla_ros.sim.scene import EpisodeStatus, ResetRequest, parse_reset

pytest.importorskip("vla_ros.sim.world")
from vla_ros.sim.robot import SimulatedRobot, check_robot  # noqa: E402
from vla_ros.sim.scene import sample_scene  # noqa: E402

ROBOT = load_robot(share_path("config/robots/tabletop.yaml"))
FIVE_JOINTS = replace(ROBOT.outputs[0], joints=ROBOT.joint_names[:5])
FORWARD = replace(ROBOT, outputs=(replace(ROBOT.outputs[0], interface="forward"),))
EXPERT_DT_S = 0.04


@pytest.fixture
def simulated():
    simulated = SimulatedRobot(ROBOT)
    yield simulated
    simulated.world.close()


def test_the_expert_driving_by_trajectories_touches_the_named_block(simulated):
    simulated.reset(ResetRequest(seed=3))
    for step in range(800):
        if step % 4 == 0:
            simulated.accept(ROBOT.outputs[0], simulated.expert.trajectory(EXPERT_DT_S))
        if simulated.step():
            break
    assert simulated.episode.status == "success"


def test_an_output_of_another_interface_is_followed_too():
    simulated = SimulatedRobot(FORWARD)
    simulated.reset(ResetRequest(seed=3))
    (output,) = FORWARD.outputs
    goal = simulated.world.joint_positions + 0.05
    for _ in range(100):
        message = SimpleNamespace(data=goal)
        simulated.accept(output, output.decode(message, 0.02))
        simulated.step()
    np.testing.assert_allclose(simulated.world.joint_positions, goal, atol=0.02)
    simulated.world.close()


def test_an_arm_that_nobody_drives_stays_and_times_out(simulated):
    simulated.reset(ResetRequest(seed=3))
    start = simulated.world.joint_positions
    while not simulated.step():
        pass
    assert simulated.episode.status == "timeout"
    np.testing.assert_allclose(simulated.world.joint_positions, start, atol=0.01)


def test_a_reset_may_name_another_block_or_another_instruction(simulated):
    scene = sample_scene(3, "eval")
    other = next(block.color for block in scene.blocks if block.color != scene.target_color)
    simulated.reset(ResetRequest(seed=3, target=other))
    assert simulated.scene.target_color == other and other in simulated.instruction
    simulated.reset(ResetRequest(seed=3, instruction="prod it"))
    assert simulated.status == EpisodeStatus(3, "prod it", scene.target_color, "running", 0.0, 2)


def test_an_unknown_target_is_refused(simulated):
    with pytest.raises(ValueError, match="purple"):
        simulated.reset(ResetRequest(seed=3, target="purple"))


def test_a_reset_message_is_read():
    text = '{"seed": 4, "instruction": null, "target": "red"}'
    assert parse_reset(text) == ResetRequest(4, None, "red")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"seed": -1}', '{"seed": 1.5}', '{"seed": 1, "speed": 2}', '{"seed": 1, "target": 3}']
)
def test_a_reset_message_that_cannot_be_used_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="sim/reset") as caught:
        parse_reset(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "robot, said",
    [
        (replace(ROBOT, joints=ROBOT.joints[:5], outputs=(FIVE_JOINTS,)), "joints"),
        (replace(ROBOT, cameras=(replace(ROBOT.cameras[0], name="wrist"),)), "'wrist'"),
        (replace(ROBOT, cameras=(ROBOT.cameras[0], replace(ROBOT.cameras[1], width=64))), "sizes"),
    ],
)
def test_a_robot_file_that_the_simulated_arm_cannot_be_is_refused(robot, said):
    with pytest.raises(ValueError, match=said):
        check_robot(robot)


def test_a_camera_that_was_moved_stays_where_it_is_and_sees_the_scene_elsewhere(simulated):
    pictures = {}
    for moved_m in (0.0, 0.05):
        simulated.world.move_camera("front", (0.0, moved_m, 0.0))
        simulated.reset(ResetRequest(seed=3))
        pictures[moved_m] = {name: simulated.world.render(name).astype(int) for name in ROBOT.camera_names}
    changes = {name: np.abs(pictures[0.05][name] - pictures[0.0][name]).mean() for name in ROBOT.camera_names}
    assert changes["front"] > 1.0 and changes["top"] == 0.0
