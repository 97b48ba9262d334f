"""The fake driver follows commands by the rules of the real controllers, whatever robot its file describes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from runtime_helpers import PERIOD_NS, ROBOT, S, frame

from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import CameraConfig, OutputConfig, RobotConfig, load_robot
from vla_ros.runtime.loop import ControlLoop, LoopSettings
from vla_ros.share import robot_file
from vla_ros.sim.fake_driver import FakeDriver, Gripper, GripperRules, Outcome, pictures
from vla_ros.types import ActionChunk, JointSample, Mode

GRIPPER = "robotiq_85_left_knuckle_joint"
START = 0.4  # the middle of the gripper's range
DROID = load_robot(robot_file("franka_droid"))
ARM, HAND = DROID.outputs


def robot_of(interface: str) -> tuple[RobotConfig, OutputConfig]:
    """The arm's joints behind a controller of that interface."""
    arm = replace(ARM, interface=interface, topic="")
    return replace(DROID, outputs=(arm, HAND)), arm


def told(*values: float, times_s: tuple[float, ...] = (0.0,)) -> Trajectory:
    """One number for each joint of the arm."""
    rows = np.array(values, np.float64)
    return Trajectory(0, np.array(times_s), np.broadcast_to(rows[:, None], (len(rows), len(ARM.joints))).copy(), None)


def arm_positions(driver: FakeDriver, now_s: float) -> np.ndarray:
    driver.step(now_s)
    return driver.positions[: len(ARM.joints)]


def grasp(driver: FakeDriver, goal: float, now_s: float = 0.0) -> Gripper:
    driver.accept(HAND, Trajectory(0, np.zeros(1), np.array([[goal]]), None), now_s)
    gripper = driver.controllers[HAND.name]
    assert isinstance(gripper, Gripper)
    return gripper


def outcomes(driver: FakeDriver, gripper: Gripper, until_s: float) -> list[tuple[float, Outcome]]:
    """When and what became of the goal, looked at every 10 ms."""
    found = []
    for now_s in np.arange(0.01, until_s, 0.01):
        driver.step(now_s)
        outcome = gripper.outcome(now_s)
        found += [] if outcome is None else [(float(now_s), outcome)]
    return found


def test_joints_stay_where_they_are_until_a_command_comes() -> None:
    driver = FakeDriver(DROID)
    middle = (DROID.joint_values("lower") + DROID.joint_values("upper")) / 2
    driver.step(1000.0)
    np.testing.assert_array_equal(driver.positions, middle)
    np.testing.assert_array_equal(driver.velocities, np.zeros(8))


def test_a_trajectory_is_followed_in_its_own_time_and_refused_where_the_controller_would() -> None:
    robot, arm = robot_of("trajectory")
    driver = FakeDriver(robot)
    start = driver.positions[:7].copy()
    driver.accept(arm, told(1.0, times_s=(2.0,)), now_s=10.0, age_s=1.0)
    np.testing.assert_allclose(arm_positions(driver, 10.5), (start + 1.0) / 2)
    np.testing.assert_allclose(driver.velocities[:7], 1.0 - start, atol=1e-9)
    np.testing.assert_allclose(arm_positions(driver, 11.5), 1.0)
    with pytest.raises(ValueError, match="it ended"):
        driver.accept(arm, told(0.5, times_s=(2.0,)), now_s=20.0, age_s=3.0)


def test_positions_are_taken_at_once() -> None:
    robot, arm = robot_of("forward")
    driver = FakeDriver(robot)
    driver.accept(arm, told(0.3), now_s=1.0)
    np.testing.assert_allclose(arm_positions(driver, 1.001), 0.3)


def test_a_velocity_is_kept_when_nobody_commands_any_more_and_ends_at_the_joints_ends() -> None:
    driver = FakeDriver(DROID)
    start = driver.positions[:7].copy()
    driver.accept(ARM, told(0.5), now_s=1.0)
    np.testing.assert_allclose(arm_positions(driver, 2.0), start + 0.5)
    np.testing.assert_allclose(driver.velocities[:7], 0.5)
    driver.accept(ARM, told(-0.5), now_s=2.0)
    np.testing.assert_allclose(arm_positions(driver, 2.5), start + 0.25)
    np.testing.assert_allclose(arm_positions(driver, 60.0), DROID.joint_values("lower")[:7])


def test_a_lag_lets_the_joints_come_later() -> None:
    robot, arm = robot_of("forward")
    driver = FakeDriver(robot, lag_s=0.1)
    driver.step(1.0)
    start = driver.positions[:7].copy()
    driver.accept(arm, told(0.3), now_s=1.0)
    for step in range(1, 11):
        driver.step(1.0 + 0.01 * step)
    np.testing.assert_allclose(driver.positions[:7], 0.3 + (start - 0.3) / np.e)


@dataclass(frozen=True)
class Driven:
    """What 5 s of a policy that turns a joint at ``speed`` come to: modes, commands and how far the arm was behind."""

    loop: ControlLoop
    commands: list[float]
    gaps: list[float]


def drive(speed_scaling: float, speed: float) -> Driven:
    """A UR5e's first joint, at 50 Hz; the slider is set when the policy is engaged, joint states come at 100 Hz."""
    robot = replace(load_robot(robot_file("ur5e_robotiq")), cameras=ROBOT.cameras[:1])
    driver, arm = FakeDriver(robot, speed_scaling=speed_scaling), robot.outputs[0]
    columns, rate = robot.columns(arm.joints), np.eye(robot.num_joints)[0] * speed
    loop, commands, gaps, start_ns = ControlLoop(robot, LoopSettings(50.0, 10.0, handoff_ramp_s=0.0)), [], [], 100 * S
    loop.sensors.task = "turn"
    for step in range(501):
        now_ns = start_ns + step * PERIOD_NS // 2
        driver.step(now_ns / S)
        loop.sensors.joints.add(JointSample(now_ns, driver.positions.copy(), driver.velocities.copy()))
        if step % 2:
            continue
        loop.sensors.cameras["front"].add(frame("front", now_ns))
        if step == 2:
            begin, begun_ns = driver.positions.copy(), now_ns
            assert loop.engage(now_ns) == ""
        observation = loop.begin_request(now_ns) if step % 20 == 2 else None
        if observation is not None:
            due_s = (observation.stamp_ns - begun_ns) / S + 0.02 * np.arange(1, 51)
            loop.accept(ActionChunk(observation.stamp_ns, 0.02, 1.0, begin + due_s[:, None] * rate), now_ns)
        tick = loop.tick(now_ns)
        if tick.ramp is not None and tick.command is not None:
            ramp = tick.ramp
            told = Trajectory(0, ramp.times_s, ramp.positions[:, columns], ramp.velocities[:, columns])
            driver.accept(arm, told, now_ns / S)
            commands.append(float(tick.command.positions[0]))
            gaps.append(abs(float(driver.positions[0]) - commands[-1]))
    return Driven(loop, commands, gaps)


def test_an_arm_that_a_slider_slows_down_below_the_policys_speed_is_named_and_held_and_never_jumps() -> None:
    driven = drive(0.3, speed=0.8)
    assert driven.loop.mode is Mode.HOLD
    assert (
        "joint 'shoulder_pan_joint' is measured 0.20 from where it is commanded; expected at most 0.2"
        in driven.loop.why
    )
    assert max(driven.gaps) < 0.3, "it stops within its limits"
    assert max(np.abs(np.diff(driven.commands))) <= 0.02 * 1.0 + 1e-9, "max_velocity"
    assert driven.gaps[-1] < 0.01, "and stays where the arm came to rest"


def test_a_policy_that_is_slower_than_the_slider_lets_it_drives_on() -> None:
    driven = drive(0.3, speed=0.2)
    assert driven.loop.mode is Mode.POLICY and max(driven.gaps) < 0.05


def test_a_gripper_moves_at_its_velocity_and_tells_once_that_it_is_there() -> None:
    driver = FakeDriver(DROID)
    gripper = grasp(driver, 0.6)
    driver.step(0.2)
    assert driver.positions[7] == pytest.approx(START + 0.2 * 0.5)
    ((at_s, outcome),) = outcomes(driver, gripper, 2.0)
    assert outcome is Outcome.REACHED and at_s == pytest.approx(0.37, abs=0.02)  # 0.18 rad until within the tolerance


def test_something_between_its_fingers_stalls_it() -> None:
    driver = FakeDriver(DROID, stops={GRIPPER: 0.5}, rules=GripperRules(stall_timeout_s=0.3))
    ((at_s, outcome),) = outcomes(driver, grasp(driver, 0.8), 2.0)
    assert outcome is Outcome.STALLED and at_s == pytest.approx(0.5, abs=0.03)  # 0.2 s of way, 0.3 s of standing
    assert driver.positions[7] == 0.5
    assert outcomes(driver, grasp(driver, 0.0, now_s=2.0), 4.0)[-1][1] is Outcome.REACHED, "away from it"


def test_a_new_goal_replaces_the_one_before_and_a_cancelled_one_leaves_it_where_it_is() -> None:
    driver = FakeDriver(DROID)
    grasp(driver, 0.8)
    gripper = grasp(driver, 0.2, now_s=0.2)
    driver.step(0.3)
    assert driver.positions[7] == pytest.approx(START + 0.1 - 0.05)
    gripper.cancel(0.3)
    assert outcomes(driver, gripper, 1.0) == [] and driver.positions[7] == pytest.approx(START + 0.05)


def test_every_picture_of_a_camera_differs_from_the_one_before() -> None:
    camera = CameraConfig("front", "front", 64, 48, 0.2)
    shown = pictures(camera, seed=0)
    assert {picture.shape for picture in shown} == {(48, 64, 3)}
    assert all((a != b).any() for a, b in zip(shown, [*shown[1:], shown[0]], strict=True))
    assert (pictures(camera, seed=1)[0] != shown[0]).any(), "and from another camera's"
