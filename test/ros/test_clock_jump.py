"""Simulated time that jumps, as when a bag is played again from its beginning."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_model import FakeModel
from ros_harness import START_PATIENCE_S, NodeProcess, Probe, assert_within_limits, wait_until
from rosgraph_msgs.msg import Clock

from vla_ros.messages.times import fill_time
from vla_ros.policies.files import digest_of
from vla_ros.robot import load_robot

ROBOT_FILE = Path(__file__).parents[1] / "data" / "three_joints.yaml"
TICK_S = 0.005
S = 1_000_000_000


class SimulatedTime:
    """Publishes what the probe stamps its sensors with."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._publisher = probe.do(probe.node.create_publisher, Clock, "/clock", 10)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            msg = Clock()
            fill_time(msg.clock, time.time_ns() + self._probe.clock_offset_ns)
            self._publisher.publish(msg)


@pytest.fixture(scope="module")
def rig(ros: None, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Probe, NodeProcess]]:
    probe = Probe(load_robot(ROBOT_FILE), namespace="jump")
    model, clock = FakeModel(probe, digest_of(policy_dir)), SimulatedTime(probe)
    parameters = {"policy": policy_dir, "robot": ROBOT_FILE, "autostart": "true", "use_sim_time": True}
    node = NodeProcess("nodes.policy_node", tmp_path_factory.mktemp("jump") / "node.log", parameters, namespace="jump")
    try:
        wait_until(lambda: probe.commands, "the first command", START_PATIENCE_S)
        yield probe, node
    finally:
        code = node.stop()
        clock.close()
        model.close()
        probe.close()
    assert code == 0, node.log
    assert_within_limits(probe)


@pytest.mark.parametrize("driver", ["POLICY", "TELEOP"])
@pytest.mark.parametrize("jump_s", [-12, 12])
def test_a_jump_of_ros_time_ends_in_hold_by_its_name(rig: tuple[Probe, NodeProcess], driver: str, jump_s: int) -> None:
    probe, _ = rig
    probe.reset()
    probe.say("touch the red block")
    probe.drive()
    if driver == "TELEOP":
        wait_until(lambda: probe.teleop([0.1, 0.0, 0.0]) or probe.mode() == "TELEOP", "TELEOP")
    probe.clock_offset_ns += jump_s * S
    wait_until(lambda: probe.mode() == "HOLD", "HOLD")
    wait_until(probe.is_at_rest, "rest")
    wait_until(lambda: "ROS time jumped by" in probe.value("vla_policy: control", "fault"), "the fault's name")
    probe.drive()  # what was stamped before is forgotten
