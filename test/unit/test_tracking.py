"""What is commanded is compared with what is measured: an arm that was moved, jumps, lags, sticks or moves already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import MS, PERIOD_NS, ROBOT, Rig, S, joints

from vla_ros.robot.parts import OutputConfig
from vla_ros.runtime.limits import Limiter
from vla_ros.runtime.loop import ControlLoop, LoopSettings
from vla_ros.runtime.teleop import TeleopSettings, TeleopTrajectory
from vla_ros.types import ActionChunk, JointSample, Mode

AWAY = (0.7, -0.1)
SETTLED = 20  # ticks
PATIENT = LoopSettings(50.0, 0.5, teleop=TeleopSettings(timeout_s=5.0), handoff_ramp_s=0.0)


def teleop(rig: Rig, *positions: float) -> str:
    hand = TeleopTrajectory((rig.now_ns + PERIOD_NS,), np.array([positions]))
    return rig.loop.offer_teleop(hand, rig.now_ns)


def in_hold(rig: Rig) -> None:
    rig.tick(5)


def in_estop(rig: Rig) -> None:
    rig.tick(5)
    rig.loop.press_estop(True)
    rig.tick()
    rig.loop.press_estop(False)


def after_teleop_was_lost(rig: Rig) -> None:
    rig.tick()
    assert teleop(rig, 0.0, 0.0) == ""
    rig.tick(30)


def after_a_fault(rig: Rig) -> None:
    rig.engage()
    rig.tick()
    rig.loop.fail_policy("the policy gave nonsense", rig.now_ns)
    rig.tick()


PLACES = [in_hold, in_estop, after_teleop_was_lost, after_a_fault]


def gap(rig: Rig) -> float:
    """How far the newest command is from the newest measurement, as a share of what is allowed; 0 without one."""
    command, measured = rig.ticks[-1].command, rig.loop.sensors.joints.newest()
    assert measured is not None
    if command is None:
        return 0.0
    return float((np.abs(command.positions - measured.positions) / ROBOT.max_tracking_errors).max())


def push(rig: Rig, num_ticks: int) -> None:
    """Somebody moves the arm ``AWAY`` by hand."""
    for i in range(1, num_ticks + 1):
        rig.arm = tuple(np.array(AWAY) * i / num_ticks)
        rig.tick()
        assert gap(rig) <= 1.0


@pytest.mark.parametrize("num_ticks", [1, 25, 100])
@pytest.mark.parametrize("come_to", PLACES)
def test_an_arm_that_is_moved_by_hand_is_named_and_commanded_to_stay_where_it_then_rests(
    come_to: Callable[[Rig], None], num_ticks: int
) -> None:
    rig = Rig()
    come_to(rig)
    mode = rig.loop.mode
    push(rig, num_ticks)
    rig.tick(2)
    assert rig.ticks[-1].command is None and rig.loop.mode is mode, "it has only just come to rest"
    for _ in range(SETTLED):
        rig.tick()
        assert gap(rig) <= 1.0
    command = rig.ticks[-1].command
    assert command is not None and not command.velocities.any()
    np.testing.assert_array_equal(command.positions, AWAY)
    assert rig.loop.is_faulty and rig.loop.fault is not None and rig.loop.fault.kind == "tracking"
    assert "joint 'shoulder' is measured 0.70 from where" in rig.loop.why and "stay where it is" in rig.loop.why
    assert sum("'shoulder' is measured" in event for tick in rig.ticks for event in tick.events) == 1
    rig.arm = None
    assert rig.loop.reset_estop() == "" and rig.loop.engage(rig.now_ns) == ""
    rig.tick()
    assert gap(rig) < 0.1 and not rig.loop.is_faulty


@pytest.mark.parametrize("act", ["engage", "takeover", "reset_estop", "teleop"])
def test_nobody_drives_from_an_arm_that_still_moves(act: str) -> None:
    rig = Rig()
    (in_estop if act == "reset_estop" else in_hold)(rig)
    mode = rig.loop.mode
    push(rig, 25)
    refusal = {
        "engage": lambda: rig.loop.engage(rig.now_ns),
        "takeover": lambda: rig.loop.takeover(rig.now_ns),
        "reset_estop": rig.loop.reset_estop,
        "teleop": lambda: teleop(rig, *AWAY),
    }[act]()
    assert "is measured 0." in refusal and "wait until it rests" in refusal
    assert rig.loop.mode is mode


def test_an_arm_within_what_is_allowed_is_commanded_to_stay_where_it_was() -> None:
    rig = Rig()
    rig.tick()
    rig.arm = (0.29, -0.19)
    commands = [rig.tick().command for _ in range(50)]
    assert all(command is not None and not command.positions.any() for command in commands)
    assert not rig.loop.is_faulty


def test_the_robot_file_says_how_far_by_joint() -> None:
    shoulder, elbow = ROBOT.joints
    robot = replace(ROBOT, joints=(replace(shoulder, max_tracking_error=0.05), elbow))
    np.testing.assert_allclose(robot.max_tracking_errors, [0.05, 0.2])
    rig = Rig(robot=robot)
    rig.tick()
    rig.arm = (0.06, 0.0)
    rig.tick(2)
    assert "is measured 0.06 from where it is commanded; expected at most 0.05" in rig.loop.why
    with pytest.raises(ValueError, match="max_tracking_error is 0; expected a number above 0"):
        replace(shoulder, max_tracking_error=0.0)


def test_a_quick_joint_such_as_a_grippers_may_be_kept_away_by_what_it_holds() -> None:
    shoulder, elbow = ROBOT.joints
    gripper = replace(elbow, lower=-0.4, upper=0.4, max_velocity=1.0)
    np.testing.assert_allclose(replace(ROBOT, joints=(shoulder, gripper)).max_tracking_errors, [0.3, 0.8])
    given = replace(gripper, max_tracking_error=0.1)
    np.testing.assert_allclose(replace(ROBOT, joints=(shoulder, given)).max_tracking_errors, [0.3, 0.1])


def test_a_driver_that_starts_again_elsewhere_is_followed_there() -> None:
    rig = Rig()
    rig.tick(5)
    rig.fresh.remove("joints")
    rig.tick(50)
    rig.fresh.add("joints")
    rig.arm = rig.measured = AWAY
    for _ in range(SETTLED):
        rig.tick()
        assert gap(rig) <= 1.0
    command = rig.ticks[-1].command
    assert command is not None
    np.testing.assert_array_equal(command.positions, AWAY)


def test_a_joint_that_turns_without_end_may_be_measured_a_turn_further() -> None:
    shoulder, elbow = ROBOT.joints
    rig = Rig(robot=replace(ROBOT, joints=(replace(shoulder, lower=-np.pi, upper=np.pi), elbow)))
    rig.loop.sensors.joints.clear()
    rig.measured = rig.arm = (3.1, 0.0)
    rig.tick(2)
    for at in (-3.1, 3.1, -3.1):
        rig.arm = (at, 0.0)
        rig.tick()
    assert not rig.loop.is_faulty


def test_joint_states_that_jump_back_and_forth_are_named_and_nobody_drives_by_them() -> None:
    rig = Rig()
    rig.tick()
    for i in range(60):
        rig.arm = (0.5 * (i % 2), 0.0)
        rig.tick()
        assert gap(rig) <= 1.0
    for refusal in (rig.loop.engage(rig.now_ns), rig.loop.takeover(rig.now_ns)):
        assert "joint 'shoulder' by 0.50 within 0.020 s" in refusal and "second publisher" in refusal
    assert "second publisher" in rig.loop.why and rig.loop.is_faulty
    lines = [line for tick in rig.ticks for line in tick.events]
    assert len(lines) == 2 and "from where it is commanded" in lines[0], lines


@pytest.mark.parametrize("mode", [Mode.POLICY, Mode.TELEOP])
def test_joint_states_that_jump_while_somebody_drives_end_in_hold(mode: Mode) -> None:
    rig = Rig()
    rig.engage()
    rig.answer(rig.ask())
    if mode is Mode.TELEOP:
        assert teleop(rig, 0.0, 0.0) == ""
    rig.tick(3)
    rig.loop.sensors.joints.add(joints(rig.now_ns, 0.5, 0.0))
    rig.tick()
    assert rig.loop.mode is Mode.HOLD and "jumped" in rig.loop.why


def test_a_loop_does_not_begin_where_two_publishers_disagree() -> None:
    loop, now_ns = ControlLoop(ROBOT, LoopSettings(50.0)), 100 * S
    for i in range(60):
        now_ns += PERIOD_NS
        for k in range(2):
            loop.sensors.joints.add(joints(now_ns - (5 - k) * MS, 0.5 * k, 0.0))
        tick = loop.tick(now_ns)
        assert tick.command is None, f"tick {i}"
    assert "jumped" in loop.why and "jumped" in loop.engage(now_ns)


@pytest.mark.parametrize("mode", [Mode.POLICY, Mode.TELEOP])
def test_an_arm_that_does_not_follow_ends_in_hold_where_it_is(mode: Mode) -> None:
    rig = Rig(PATIENT)
    rig.engage()
    if mode is Mode.POLICY:
        rig.answer(rig.ask(), goal=(0.9, 0.0))
    else:
        assert teleop(rig, 0.9, 0.0) == ""
    rig.arm = (0.0, 0.0)
    rig.tick(25)
    assert rig.loop.mode is Mode.HOLD and rig.loop.is_faulty
    assert "joint 'shoulder' is measured 0.3" in rig.loop.why
    rig.tick(40)
    command = rig.ticks[-1].command
    assert command is not None
    np.testing.assert_array_equal(command.positions, rig.arm)
    rig.ticks = [tick for tick in rig.ticks[:25] if tick.command is not None]
    rig.assert_within_limits()


def test_an_arm_that_sticks_for_a_moment_is_braked_for_where_the_robot_file_says_so() -> None:
    rig = Rig(robot=Rig.robot_with(tracking="recover"))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, 0.0))
    rig.arm = (0.0, 0.0)
    rig.tick(25)
    assert rig.loop.mode is Mode.POLICY and rig.loop.recovering_from is not None
    while rig.loop.recovering_from is not None:
        rig.tick()
    assert rig.loop.mode is Mode.POLICY and gap(rig) < 0.1, "it rests and is commanded to stay there"
    rig.arm = None
    assert rig.answer(rig.ask(), goal=(0.2, 0.0))


def test_an_arm_whose_driver_is_100_ms_late_may_be_as_fast_as_it_can() -> None:
    rig = Rig(LoopSettings(50.0, 5.0, handoff_ramp_s=0.0))
    rig.engage()
    rows = np.array([[0.95, -1.9], [-0.95, 0.45]] * 10)
    assert rig.loop.accept(ActionChunk(rig.ask().stamp_ns, 1.5, 1.0, rows), rig.now_ns)
    for _ in range(500):
        commands = [tick.command.positions for tick in rig.ticks if tick.command is not None]
        rig.arm = tuple(commands[-5] if len(commands) >= 5 else commands[0])
        rig.tick()
    speeds = [np.abs(tick.command.velocities).max() for tick in rig.ticks if tick.command is not None]
    assert max(speeds) > 1.4 and rig.loop.mode is Mode.POLICY


def test_what_nobody_follows_is_not_compared() -> None:
    rig = Rig(LoopSettings(50.0, 0.5, handoff_ramp_s=0.0, is_followed=False))
    rig.tick()
    rig.arm = AWAY
    rig.tick(50)
    command = rig.ticks[-1].command
    assert command is not None and not command.positions.any() and rig.loop.engage(rig.now_ns) == ""


@pytest.mark.parametrize("has_velocities", [True, False])
@pytest.mark.parametrize("age_ms", [0, 5, 15, 60])
def test_a_loop_that_begins_while_the_arm_moves_brakes_within_its_limits(age_ms: int, has_velocities: bool) -> None:
    """Against an arm on the braking ramp of the loop before."""
    speed, limit, now_ns = 1.4, ROBOT.joints[0].max_acceleration, 100 * S
    loop = ControlLoop(ROBOT, LoopSettings(50.0))

    def arm(t_s: float) -> float:
        """Where it is; it begins to brake at 0."""
        t_s = min(t_s, speed / limit)
        return speed * t_s - (0.5 * limit * t_s**2 if t_s > 0 else 0.0)

    for ago_ms in (age_ms + 10, age_ms):
        measured_s = (age_ms - ago_ms) / 1e3
        velocities = np.array([speed, 0.0]) if has_velocities else np.full(2, np.nan)
        positions = np.array([arm(measured_s), 0.0])
        loop.sensors.joints.add(JointSample(now_ns - ago_ms * MS, positions, velocities))
    before = speed
    for i in range(15):
        command = loop.tick(now_ns + i * PERIOD_NS).command
        assert command is not None
        due_s = (age_ms + 20 * (i + 1)) / 1e3
        assert command.positions[0] == pytest.approx(arm(due_s), abs=1e-3)
        assert abs(command.velocities[0] - before) <= limit * (due_s if i == 0 else 0.02) + 1e-6
        before = command.velocities[0]
    assert not command.velocities.any()


def test_a_velocity_that_no_arm_has_is_not_believed() -> None:
    loop, now_ns = ControlLoop(ROBOT, LoopSettings(50.0)), 100 * S
    for ago_ms in (10, 0):
        loop.sensors.joints.add(JointSample(now_ns - ago_ms * MS, np.zeros(2), np.array([80.0, 0.0])))
    command = loop.tick(now_ns).command
    assert command is not None and not command.positions.any()


def test_a_start_towards_a_position_limit_stops_before_it() -> None:
    limiter = Limiter(ROBOT, 0.02)
    limiter.start_at(np.array([0.99, 0.0]), np.array([1.5, 0.0]), 0.01)
    positions = [limiter.brake(0).positions[0] for _ in range(30)]
    assert max(positions) <= ROBOT.joints[0].upper + 1e-9


@pytest.mark.parametrize(("away_s", "max_overrun_s"), [(2.0, 0.1), (3.5, 0.1), (3.5, 10.0)])
@pytest.mark.parametrize("mode", [Mode.POLICY, Mode.TELEOP])
def test_after_a_long_absence_nothing_goes_on_by_itself(mode: Mode, away_s: float, max_overrun_s: float) -> None:
    rig = Rig(PATIENT, Rig.robot_with(**dict.fromkeys(RECOVERING, "recover"), max_overrun_s=max_overrun_s))
    rig.engage()
    rig.answer(rig.ask())
    if mode is Mode.TELEOP:
        assert teleop(rig, 0.1, 0.0) == ""
    rig.tick(3)
    rig.now_ns += round(away_s * S)  # as under SIGSTOP
    rig.tick()
    assert rig.loop.mode is Mode.HOLD and "did not run for" in rig.loop.why
    for _ in range(50):
        rig.tick()
        assert rig.loop.begin_request(rig.now_ns) is None
    assert rig.loop.mode is Mode.HOLD


RECOVERING = ("camera", "joints", "tracking", "result", "answer", "chunk", "model", "clock", "overrun")


def test_after_a_short_absence_the_policy_goes_on_where_the_robot_file_says_so() -> None:
    rig = Rig(robot=Rig.robot_with(**dict.fromkeys(RECOVERING, "recover")))
    rig.engage()
    rig.answer(rig.ask())
    rig.tick(3)
    rig.now_ns += round(1.0 * S)
    rig.tick(3)
    assert rig.loop.mode is Mode.POLICY and rig.answer(rig.ask())


def test_a_fixed_joint_goes_where_it_goes_and_the_others_are_driven_on() -> None:
    shoulder, elbow = ROBOT.joints
    robot = replace(ROBOT, joints=(shoulder, replace(elbow, fixed=True)), outputs=(OutputConfig("arm", ("shoulder",)),))
    rig = Rig(robot=robot)
    rig.engage()
    rig.answer(rig.ask(), (0.3, -0.3))
    for k in range(20):  # it swings past every max_tracking_error
        rig.measured = (rig.measured[0], -0.02 * k)
        rig.tick()
    assert rig.loop.mode is Mode.POLICY and rig.loop.fault is None
    commands = np.array([tick.command.positions for tick in rig.ticks if tick.command is not None])
    assert commands[-1, 0] > 0.1 and not np.ptp(commands[:, 1])
