"""A family of policies without a VLM drives a robot through the real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ros_harness import ROBOT_FILE, START_PATIENCE_S, NodeProcess, Probe, wait_until
from toy_family.config import ToyConfig
from toy_family.processor import ToyProcessor

from vla_ros.policies.config import DataConfig
from vla_ros.policies.directory import save_policy
from vla_ros.policies.fill import build_policy
from vla_ros.robot import load_robot
from vla_ros.transforms.normalize import compute_stats
from vla_ros.types import Observation

HORIZON = 4


@pytest.fixture
def toy_dir(tmp_path: Path) -> Path:
    robot, rng = load_robot(ROBOT_FILE), np.random.default_rng(0)
    num = robot.num_joints
    stats = {
        name: compute_stats(0.1 * rng.normal(size=(50, h, num))) for name, h in (("state", 1), ("action", HORIZON))
    }
    data = DataConfig(robot.joint_names, robot.camera_names, HORIZON, chunk_dt_s=0.5)
    processor = ToyProcessor(ToyConfig("Toy", HORIZON, num, num), data, stats)
    images = {name: np.zeros((*processor.camera_size, 3), np.uint8) for name in robot.camera_names}
    seen = Observation(0, dict.fromkeys(images, 0), images, np.zeros(num), "touch the red block")
    save_policy(tmp_path / "toy", build_policy(processor.config), processor, seen)
    return tmp_path / "toy"


@pytest.fixture
def probe(ros: None, toy_dir: Path, tmp_path: Path) -> Iterator[Probe]:
    probe = Probe(load_robot(ROBOT_FILE))
    parameters = {"policy": toy_dir, "autostart": "true"}
    nodes = [NodeProcess("model_node", tmp_path / "model_node.log", parameters, package="toy_family")]
    parameters |= {"robot": ROBOT_FILE, "result_timeout_s": 2}
    nodes.append(NodeProcess("policy_node", tmp_path / "policy_node.log", parameters, package="toy_family"))
    try:
        yield probe
    finally:
        codes = [node.stop() for node in nodes]
        probe.close()
    assert codes == [0, 0], nodes[0].log + nodes[1].log


def test_it_drives_a_robot(probe: Probe) -> None:
    wait_until(lambda: probe.mode() == "HOLD", "HOLD", START_PATIENCE_S)
    probe.say("touch the red block")
    probe.drive(3)
    assert all(len(chunk.points) == HORIZON for chunk in probe.chunks)
    wait_until(lambda: any(np.any(command.points[0].velocities) for command in probe.commands), "motion")
