"""The control loop: who drives, what is commanded at every tick, and when it lets go."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import CHUNK_DT_S, HORIZON, MS, PERIOD_NS, ROBOT, Rig, S, frame, joints

from vla_ros.runtime.loop import ControlLoop, LoopSettings
from vla_ros.types import ActionChunk, Mode


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_before_the_first_joint_state_nothing_is_commanded():
    loop = ControlLoop(ROBOT, LoopSettings(50.0))
    assert loop.tick(S).command is None
    assert loop.mode is Mode.HOLD
    assert "no joint state" in loop.engage(S)


def test_hold_repeats_one_fixed_command_where_the_robot_was_found():
    loop = ControlLoop(ROBOT, LoopSettings(50.0))
    loop.sensors.joints.add(joints(S, 0.25, -0.5))
    for i in range(10):
        tick = loop.tick(S + i * PERIOD_NS)
        loop.sensors.joints.add(joints(S + i * PERIOD_NS + MS, 0.3, -0.6))
        np.testing.assert_array_equal(tick.command.positions, [0.25, -0.5])
        assert not tick.command.velocities.any() and tick.observation_age_ns is None


def test_a_command_is_due_one_period_after_its_tick(rig):
    tick = rig.tick()
    assert tick.command.stamp_ns == rig.now_ns + PERIOD_NS


def test_engage_is_refused_with_the_reason_and_the_mode_stays(rig):
    rig.tick()
    rig.loop.sensors.task = ""
    assert "no instruction" in rig.loop.engage(rig.now_ns)
    assert rig.loop.mode is Mode.HOLD


def test_the_policy_is_followed_from_its_first_chunk_on(rig):
    rig.engage()
    assert rig.tick(3).mode is Mode.POLICY
    np.testing.assert_array_equal(rig.ticks[-1].command.positions, [0.0, 0.0])
    assert rig.answer(rig.ask())
    tick = rig.tick(24)
    np.testing.assert_allclose(tick.command.positions, [0.288, -0.288], atol=0.02)
    assert tick.observation_age_ns is not None


def test_the_first_chunk_starts_at_the_moment_it_arrives_and_later_ones_keep_their_time(rig):
    rig.engage()
    rig.tick()
    observation = rig.ask()
    rig.tick(10)
    rig.answer(observation)
    assert rig.tick().command.positions[0] < 0.02, "200 ms late, yet it begins at its beginning"
    second = rig.ask()
    rig.tick(10)
    rig.answer(second, goal=(0.6, -0.6))
    due_s = (rig.now_ns + PERIOD_NS - second.stamp_ns) / S
    target = rig.loop._policy.target(rig.now_ns + PERIOD_NS).positions[0]
    assert target == pytest.approx(0.12 * due_s / CHUNK_DT_S, abs=0.05)


def test_the_model_is_asked_only_when_it_is_free_and_there_is_a_new_observation(rig):
    rig.tick()
    assert rig.loop.begin_request(rig.now_ns) is None, "HOLD asks nothing"
    rig.engage()
    observation = rig.ask()
    rig.tick()
    assert rig.loop.begin_request(rig.now_ns) is None, "the model is busy"
    rig.answer(observation)
    newer = rig.ask()
    assert newer.stamp_ns > observation.stamp_ns
    rig.answer(newer)
    assert rig.loop.begin_request(rig.now_ns) is None, "no newer frame has come"


def test_a_result_that_nobody_waits_for_is_dropped(rig):
    rig.engage()
    observation = rig.ask()
    rig.loop.hold("asked to hold", is_fault=False)
    assert not rig.answer(observation)
    assert rig.loop.engage(rig.now_ns) == ""
    assert not rig.answer(observation)
    assert rig.tick().observation_age_ns is None


@pytest.mark.parametrize(
    ("silent", "named"), [("front", "camera 'front'"), ("wrist", "camera 'wrist'"), ("joints", "joint state")]
)
def test_a_sensor_that_falls_silent_ends_policy_by_its_name(rig, silent, named):
    rig.engage()
    rig.answer(rig.ask())
    rig.tick(3)
    rig.fresh.remove(silent)
    rig.tick(18)
    assert rig.loop.mode is Mode.HOLD and rig.loop.is_faulty
    assert named in rig.loop.why
    assert any(named in event for tick in rig.ticks for event in tick.events)


def test_no_result_in_time_ends_policy(rig):
    rig.engage()
    rig.ask()
    rig.tick(24)
    assert rig.loop.mode is Mode.POLICY
    rig.tick(3)
    assert rig.loop.mode is Mode.HOLD
    assert "no result came from vla_model" in rig.loop.why


def test_policy_without_an_observation_ends_with_its_reason(rig):
    rig.engage()
    rig.loop.sensors.task = ""
    rig.tick()
    assert rig.loop.begin_request(rig.now_ns) is None
    rig.tick(30)
    assert rig.loop.mode is Mode.HOLD
    assert "no instruction" in rig.loop.why


def test_a_used_up_chunk_ends_policy(rig):
    rig.engage()
    rig.answer(rig.ask())
    rig.tick(23)
    assert rig.loop.mode is Mode.POLICY
    rig.tick(5)
    assert rig.loop.mode is Mode.HOLD
    assert "chunk is used up" in rig.loop.why


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (np.full((5, 2), np.nan), "not finite"),
        (np.zeros((5, 3)), r"shape \(5, 3\)"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
    ],
)
def test_an_unusable_chunk_ends_policy_and_is_never_followed(rig, rows, named):
    rig.engage()
    observation = rig.ask()
    assert not rig.loop.accept(ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, rows), rig.now_ns)
    tick = rig.tick()
    assert tick.mode is Mode.HOLD
    assert re.search(named, rig.loop.why)
    np.testing.assert_array_equal(tick.command.positions, [0.0, 0.0])


def test_letting_go_in_motion_brakes_within_the_limits_to_a_fixed_command(rig):
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    moving = rig.tick(15).command
    assert moving.velocities[0] > 0.5
    rig.loop.hold("asked to hold", is_fault=False)
    before = moving
    for _ in range(30):
        command = rig.tick().command
        acceleration = (command.velocities - before.velocities) / 0.02
        assert (np.abs(acceleration) <= ROBOT.joint_values("max_acceleration") + 1e-6).all()
        before = command
    assert not command.velocities.any()
    np.testing.assert_array_equal(rig.tick().command.positions, command.positions)
    assert rig.loop.why == "asked to hold" and not rig.loop.is_faulty


def test_the_first_reason_to_hold_is_kept(rig):
    rig.engage()
    rig.loop.hold("first")
    rig.loop.hold("second")
    assert rig.loop.why == "first"


def test_missed_ticks_continue_where_the_published_ramp_has_brought_the_robot(rig):
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    last = rig.tick(15)
    rest = last.ramp.positions[-1]
    rig.now_ns += 18 * PERIOD_NS
    for camera in ROBOT.camera_names:
        rig.loop.sensors.cameras[camera].add(frame(camera, rig.now_ns))
    command = rig.tick().command
    limit = ROBOT.joint_values("max_acceleration") * 0.02
    assert (np.abs(command.velocities) <= limit + 1e-9).all()
    np.testing.assert_allclose(command.positions, rest, atol=0.01)


def test_engaging_again_starts_from_the_held_command(rig):
    rig.engage()
    rig.answer(rig.ask())
    rig.tick(10)
    rig.loop.hold("asked to hold", is_fault=False)
    held = rig.tick(20).command.positions
    rig.engage()
    rig.answer(rig.ask(), goal=(0.0, 0.0))
    np.testing.assert_allclose(rig.tick().command.positions, held, atol=0.005)


def test_commands_stay_bounded_whatever_the_policy_says(rig):
    rng = np.random.default_rng(0)
    rig.engage()
    before = rig.ticks[-1].command
    for _ in range(200):
        observation = rig.loop.begin_request(rig.now_ns)
        if observation is not None:
            rows = rng.normal(size=(HORIZON, 2)) * 10 ** rng.uniform(-2, 3)
            rig.loop.accept(ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, rows), rig.now_ns)
        command = rig.tick().command
        acceleration = (command.velocities - before.velocities) / 0.02
        assert (np.abs(acceleration) <= ROBOT.joint_values("max_acceleration") + 1e-6).all()
        assert (np.abs(command.velocities) <= ROBOT.joint_values("max_velocity") + 1e-9).all()
        assert (command.positions <= ROBOT.joint_values("upper") + 1e-9).all()
        assert (command.positions >= ROBOT.joint_values("lower") - 1e-9).all()
        before = command
    assert rig.loop.mode is Mode.POLICY


STAMPED_ZERO = replace(ROBOT, outputs=(replace(ROBOT.outputs[0], stamp="zero"),))


def test_after_a_command_that_went_out_late_with_its_stamp_the_next_continues_its_ramp():
    rig = Rig()
    rig.engage()
    rig.answer(rig.ask())
    before = rig.tick(10)
    rig.loop.sent(rig.now_ns + 60 * MS)
    rig.now_ns += 60 * MS
    after = rig.tick()
    elapsed_s = (after.command.stamp_ns - before.command.stamp_ns) / S
    where = np.array([np.interp(elapsed_s, before.ramp.times_s, column) for column in before.ramp.positions.T])
    assert (np.abs(before.ramp.velocities[0]) > 0.1).any() and elapsed_s == pytest.approx(0.08)
    np.testing.assert_allclose(after.command.positions, where, atol=0.02)


def test_after_a_command_that_went_out_late_without_a_stamp_nothing_is_made_up_for():
    rig = Rig(robot=STAMPED_ZERO)
    rig.engage()
    rig.answer(rig.ask())
    before = rig.tick(10).command
    rig.loop.sent(rig.now_ns + 60 * MS)  # the thread lost its core between computing and publishing
    rig.now_ns += 40 * MS
    after = rig.tick().command
    step = np.abs(after.positions - before.positions)
    assert (step <= ROBOT.joint_values("max_velocity") * 0.02 + 1e-9).all() and step.any()
    rig.assert_within_limits()


@pytest.mark.parametrize("robot", [ROBOT, STAMPED_ZERO], ids=["stamped", "not stamped"])
def test_a_command_sent_far_too_late_is_an_overrun(robot):
    rig = Rig(robot=robot)
    rig.engage()
    rig.answer(rig.ask())
    rig.tick(3)
    late_ns = round((ROBOT.watchdogs.max_overrun_s + 0.1) * S)
    rig.loop.sent(rig.now_ns + late_ns)
    rig.now_ns += late_ns
    assert "braking: the control thread did not run for 0.20 s" in rig.tick().events[0]
