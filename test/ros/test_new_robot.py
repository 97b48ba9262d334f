"""`vla_ros new robot` beside running drivers: their topics stand in the draft, and it describes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from ros_harness import SOURCE_ROOT, START_PATIENCE_S, NodeProcess, wait_until

from vla_ros.robot import load_robot
from vla_ros.share import share_path


@pytest.fixture
def draft(ros: None, tmp_path: Path) -> Path:
    """Of the SO-101's URDF, beside its fake driver."""
    driver = NodeProcess("sim.fake_driver_node", tmp_path / "driver.log", {"robot": "so101"})
    _wait_for_topics()
    urdf, out = share_path("config/robots/so101.urdf"), tmp_path / "my" / "arm.yaml"
    command = [sys.executable, "-m", "vla_ros.cli", "new", "robot", "--from-urdf", str(urdf), "--out", str(out)]
    try:
        run = subprocess.run([*command, "--seconds", "2"], capture_output=True, text=True, cwd=SOURCE_ROOT, timeout=120)
    finally:
        driver.stop()
    assert run.returncode == 0, run.stderr + driver.log
    assert "trajectories: joint_trajectory_controller/joint_trajectory" in run.stdout
    return out


def _wait_for_topics() -> None:
    robot, node = load_robot(share_path("config/robots/so101.yaml")), rclpy.create_node("waiting")
    topics = [camera.topic for camera in robot.cameras] + [source.topic for source in robot.joint_sources]
    wait_until(lambda: all(map(node.count_publishers, topics)), "the driver's topics", START_PATIENCE_S)
    command = robot.outputs[0].command_topic
    wait_until(lambda: node.count_subscribers(command), "the driver's controller", START_PATIENCE_S)
    node.destroy_node()


def test_the_drivers_topics_stand_in_the_draft(draft: Path) -> None:
    drafted, packaged = load_robot(draft), load_robot(share_path("config/robots/so101.yaml"))
    (source,) = drafted.joint_sources
    assert (source.topic, set(source.joints)) == ("joint_states", set(packaged.joint_names))
    shown = {camera.topic: (camera.width, camera.height) for camera in drafted.cameras}
    assert shown == {camera.topic: (camera.width, camera.height) for camera in packaged.cameras}
    assert drafted.outputs[0].command_topic == packaged.outputs[0].command_topic
    assert drafted.joint_limits == packaged.joint_limits
