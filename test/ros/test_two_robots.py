"""Two robots in two namespaces on one machine: each pair of nodes knows its own robot only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ros_harness import (
    ROBOT_FILE,
    START_PATIENCE_S,
    NodeProcess,
    Probe,
    assert_within_limits,
    wait_until,
)

from vla_ros.robot import load_robot

SIDES = ("left", "right")
START = {"left": np.array([0.3, 0.2, 0.1]), "right": np.array([-0.3, -0.2, 0.4])}


class Robot:
    """One robot's sensors, watched, and its two nodes."""

    def __init__(self, side: str, policy_dir: Path, logs: Path) -> None:
        self.probe = Probe(load_robot(ROBOT_FILE), namespace=side)
        self.probe.positions = START[side].copy()
        parameters = {"policy": policy_dir, "autostart": "true"}
        self.model_node = NodeProcess("nodes.model_node", logs / f"{side}_model_node.log", parameters, side)
        parameters |= {"robot": ROBOT_FILE, "result_timeout_s": 2}
        self.policy_node = NodeProcess("nodes.policy_node", logs / f"{side}_policy_node.log", parameters, side)

    @property
    def commanded(self) -> np.ndarray:
        """Every command since the probe was reset ``[num_commands, num_joints]``."""
        return np.array([command.points[0].positions for command in self.probe.commands])

    def rest(self) -> None:
        self.probe.estop(False)
        wait_until(lambda: self.probe.trigger("vla_policy/reset_estop").success, "reset")
        self.probe.trigger("vla_policy/hold")
        wait_until(lambda: self.probe.mode() == "HOLD", "HOLD")
        wait_until(self.probe.is_at_rest, "rest")
        self.probe.reset()

    def drive(self) -> None:
        """Until it has moved."""

        def has_moved() -> bool:
            self.probe.drive(2)
            return len(self.probe.commands) > 20 and bool(np.ptp(self.commanded, axis=0).any())

        wait_until(has_moved, "a motion")


@pytest.fixture(scope="module")
def running(ros: None, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Robot]]:
    logs = tmp_path_factory.mktemp("two_robots")
    robots = {side: Robot(side, policy_dir, logs) for side in SIDES}
    try:
        for robot in robots.values():
            wait_until(lambda robot=robot: robot.probe.commands, "the first command", START_PATIENCE_S)
        yield robots
    finally:
        nodes = [node for robot in robots.values() for node in (robot.policy_node, robot.model_node)]
        codes = [node.stop() for node in nodes]
        for robot in robots.values():
            robot.probe.close()
    assert codes == [0, 0, 0, 0], "".join(node.log for node in nodes)
    for robot in robots.values():
        assert_within_limits(robot.probe)


@pytest.fixture
def robots(running: dict[str, Robot]) -> dict[str, Robot]:
    """Both in HOLD at rest, with an instruction of their own."""
    for robot, task in zip(running.values(), ("touch the red block", "touch the green block"), strict=True):
        robot.rest()
        robot.probe.say(task)
    return running


def test_each_starts_in_hold_where_its_own_robot_is(running):
    for side, robot in running.items():
        wait_until(lambda robot=robot: len(robot.commanded) > 10 and robot.probe.modes, "commands and their mode")
        commanded = robot.commanded
        np.testing.assert_allclose(commanded, np.tile(START[side], (len(commanded), 1)), atol=1e-9)
        assert set(robot.probe.modes) == {"HOLD"}


def test_engaging_one_moves_that_one_and_the_other_holds_still(robots):
    for engaged, other in (SIDES, SIDES[::-1]):
        robots[other].rest()
        robots[engaged].drive()
        wait_until(lambda: len(robots[other].probe.commands) > 20, f"commands of {other}")
        assert robots[other].probe.mode() == "HOLD" and not robots[other].probe.chunks
        assert not np.ptp(robots[other].commanded, axis=0).any(), f"{other} holds one fixed command"


def test_both_drive_at_once_and_one_emergency_stop_is_for_one_robot(robots):
    left, right = robots["left"], robots["right"]
    left.drive()
    right.drive()
    left_stamps, right_stamps = (
        {(c.header.stamp.sec, c.header.stamp.nanosec) for c in robot.probe.chunks} for robot in (left, right)
    )
    assert not left_stamps & right_stamps, "each has chunks of its own"
    left.probe.estop(True)
    wait_until(lambda: left.probe.mode() == "ESTOP", "ESTOP")
    right.probe.modes.clear()
    right.probe.drive(2)  # a busy machine may have ended its drive, but it is engaged again at once
    assert "ESTOP" not in right.probe.modes and left.probe.mode() == "ESTOP"


def test_diagnostics_tell_the_robots_apart_by_their_namespace(robots):
    robots["left"].probe.engage()
    robots["left"].probe.wait_for_words("POLICY: engaged")
    robots["right"].probe.wait_for_words("HOLD: ")
    for side, robot in robots.items():
        for name in ("vla_policy: control", "vla_model: inference"):
            wait_until(lambda robot=robot, name=name: robot.probe.diagnostic(name), f"{side}/{name}")
            assert robot.probe.diagnostic(name).name == f"{side}/{name}"


# The last one, for what it ends stays away.
def test_a_model_node_that_dies_stops_its_own_robot_only(robots):
    left, right = robots["left"], robots["right"]
    left.drive()
    right.drive()
    right.model_node.stop()
    wait_until(lambda: right.probe.mode() == "HOLD", "HOLD")
    left.probe.drive(2)
    refused = right.probe.trigger("vla_policy/engage")
    assert not refused.success and "vla_model" in refused.message
