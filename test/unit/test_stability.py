"""Whoever wants one pose and says so again and again gets it: no rate, delay or bound on jerk makes the arm swing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import MS, ROBOT, frame, joints

from vla_ros.runtime.loop import ControlLoop, LoopSettings
from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.types import ActionChunk, Mode
from vla_ros.units import NS_PER_S

PERIOD_NS, CAMERA_NS = 20 * MS, 33 * MS
START, GOAL = np.array([-0.3, 0.0]), np.array([0.3, -0.2])
TRAVEL_S, STILL_S = 4.0, 2.0  # the slowest of them arrives, then has two seconds to come to rest
MAX_REST = 1e-3  # of the velocity limit
JERKS = (2.0, 20.0, 80.0, 200.0)  # rad/s³


def make_loop(max_jerk: float, strategy: str = "latest") -> ControlLoop:
    """The acceleration is what the robot file allows beside such a jerk: half a second to reach it."""
    parts = (
        replace(joint, max_jerk=max_jerk, max_acceleration=min(joint.max_acceleration, max_jerk / 2))
        for joint in ROBOT.joints
    )
    loop = ControlLoop(replace(ROBOT, joints=tuple(parts)), LoopSettings(50.0, strategy=strategy))
    loop.sensors.task = "stay there"
    return loop


class Arm:
    """A loop whose arm does as commanded; time goes on by whole milliseconds."""

    def __init__(self, loop: ControlLoop) -> None:
        self.loop = loop
        self.now_ns = 100 * NS_PER_S
        self.positions = START
        self.speeds: list[float] = []

    def step(self, ms: int) -> None:
        """One millisecond later; on its turn the loop ticks."""
        self.now_ns += MS
        if ms % 33 == 0:
            for camera in self.loop.sensors.cameras:
                self.loop.sensors.cameras[camera].add(frame(camera, self.now_ns))
        if ms % 20 == 0:
            self.loop.sensors.joints.add(joints(self.now_ns, *self.positions))
            command = self.loop.tick(self.now_ns).command
            assert command is not None
            self.positions = command.positions
            self.speeds.append(float(np.abs(command.velocities / ROBOT.joint_values("max_velocity")).max()))

    def assert_at_rest(self) -> None:
        """At the goal, and still for the last second."""
        np.testing.assert_allclose(self.positions, GOAL, atol=1e-3)
        assert max(self.speeds[-round(NS_PER_S / PERIOD_NS) :]) < MAX_REST


@pytest.mark.parametrize("max_jerk", JERKS)
@pytest.mark.parametrize("ahead_ms", [0, 20, 50, 100, 200])
@pytest.mark.parametrize("rate_hz", [5, 10, 20, 30, 50, 100, 200])
def test_an_arm_comes_to_rest_where_a_still_hand_is(rate_hz: int, ahead_ms: int, max_jerk: float) -> None:
    arm = Arm(make_loop(max_jerk))
    every_ms = 1000 // rate_hz
    for ms in range(round(1000 * (TRAVEL_S + STILL_S))):
        arm.step(ms)
        if ms % every_ms == 0 and ms > 100:
            hand = TeleopTrajectory((arm.now_ns + ahead_ms * MS + 1,), GOAL[None])
            assert arm.loop.offer_teleop(hand, arm.now_ns) == ""
    assert arm.loop.mode is Mode.TELEOP
    arm.assert_at_rest()


@pytest.mark.parametrize("ahead_ms", [0, 20, 33, 100])
@pytest.mark.parametrize("rate_hz", [5, 10, 15, 20, 30, 50, 100, 200])
def test_an_arm_moves_as_steadily_as_the_hand_that_leads_it(rate_hz: int, ahead_ms: int) -> None:
    """However seldom the hand is heard: its path doesn't end before it is heard again."""
    loop = ControlLoop(ROBOT, LoopSettings(50.0))
    arm, way = Arm(loop), GOAL - START
    every_ms = 1000 // rate_hz
    for ms in range(4000):
        arm.step(ms)
        if ms % every_ms == 0:
            hand = START + way * (ms + ahead_ms) / 4000
            assert loop.offer_teleop(TeleopTrajectory((arm.now_ns + ahead_ms * MS + 1,), hand[None]), arm.now_ns) == ""
    steady = float(np.abs(way / ROBOT.joint_values("max_velocity")).max()) / 4.0
    np.testing.assert_allclose(arm.speeds[100:], steady, rtol=0.02)


@pytest.mark.parametrize("max_jerk", JERKS)
@pytest.mark.parametrize("answer_ms", [5, 20, 80, 200, 450])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_arm_comes_to_rest_where_a_policy_always_wants_it(strategy: str, answer_ms: int, max_jerk: float) -> None:
    arm = Arm(make_loop(max_jerk, strategy))
    due: list[tuple[int, int]] = []
    for ms in range(round(1000 * (TRAVEL_S + STILL_S))):
        arm.step(ms)
        if ms == 400:
            assert arm.loop.engage(arm.now_ns) == ""
        if ms >= 400:
            observation = arm.loop.begin_request(arm.now_ns)
            if observation is not None:
                due.append((arm.now_ns + answer_ms * MS, observation.stamp_ns))
        while due and due[0][0] <= arm.now_ns:
            arm.loop.accept(ActionChunk(due.pop(0)[1], 0.1, 1.0, np.tile(GOAL, (20, 1))), arm.now_ns)
    assert arm.loop.mode is Mode.POLICY
    arm.assert_at_rest()
