"""A policy that an installed LeRobot runs drives a robot through the real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lerobot_made_helpers import HORIZONS, SPACE, do_import, make, require
from ros_harness import ROBOT_FILE, NodeProcess, Probe, wait_until

from vla_ros.robot import load_robot

INFERENCE, CHUNK_DT_S = "vla_model: inference", 0.5
WAITS = "each inference waits for LeRobot's own 'act' in this process on cpu"


@pytest.fixture
def policy_dir(tmp_path: Path) -> Path:
    """A very small ACT of LeRobot's, whose chunks last 5 s."""
    require("act")
    make(tmp_path / "theirs", "act")
    out = tmp_path / "policy"
    assert do_import(tmp_path / "theirs", out, space={**SPACE, "chunk_dt_s": CHUNK_DT_S}) == 0
    return out


@pytest.fixture
def probe(policy_dir: Path, ros: None, tmp_path: Path) -> Iterator[Probe]:
    probe = Probe(load_robot(ROBOT_FILE))
    nodes = [NodeProcess("nodes.model_node", tmp_path / "model_node.log", {"policy": policy_dir})]
    parameters = {"policy": policy_dir, "robot": ROBOT_FILE, "result_timeout_s": 2}
    nodes.append(NodeProcess("nodes.policy_node", tmp_path / "policy_node.log", parameters))
    try:
        yield probe
    finally:
        codes = [node.stop() for node in nodes]
        probe.close()
    logs = nodes[0].log + nodes[1].log
    assert codes == [0, 0], logs
    assert "Traceback" not in logs


def test_it_drives_a_robot_and_says_that_it_waits(probe: Probe) -> None:
    for node in ("vla_model", "vla_policy"):
        for transition in ("configure", "activate"):
            assert probe.change_state(node, transition), f"{node}: {transition}"
    wait_until(lambda: probe.mode() == "HOLD", "HOLD")
    probe.say("touch the red block")
    probe.engage()
    wait_until(lambda: len(probe.chunks) >= 3, "three chunks")
    assert probe.mode() == "POLICY"
    for chunk in probe.chunks:
        due = [point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec for point in chunk.points]
        np.testing.assert_allclose(due, CHUNK_DT_S * np.arange(HORIZONS["act"]), atol=1e-6)
    wait_until(lambda: any(np.any(command.points[0].velocities) for command in probe.commands), "motion")

    def says_that_it_waits() -> bool:
        status = probe.diagnostic(INFERENCE)
        return status is not None and WAITS in status.message and bool(probe.value(INFERENCE, "lerobot_ms_p50"))

    wait_until(says_that_it_waits, "what it waits for, and how long, on /diagnostics")
    probe.trigger("vla_policy/hold")
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert probe.change_state("vla_model", transition), transition
    num_chunks = len(probe.chunks)
    probe.engage()
    wait_until(lambda: len(probe.chunks) > num_chunks, "a chunk of the policy that was loaded again")
