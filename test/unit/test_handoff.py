"""Hands that take over and give back: without a jump, at once, and never against the emergency stop."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_helpers import MS, PERIOD_NS, Rig

from vla_ros.observing.freshness import Fault
from vla_ros.runtime.loop import LoopSettings
from vla_ros.runtime.teleop import TeleopSettings, TeleopTrajectory
from vla_ros.types import Mode


def set_point(rig: Rig, *positions: float, ahead_ms: int = 20) -> TeleopTrajectory:
    return TeleopTrajectory((rig.now_ns + ahead_ms * MS,), np.array([positions]))


def test_a_teleop_message_takes_over_with_the_next_command():
    rig = Rig()
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(12)
    assert rig.loop.offer_teleop(set_point(rig, 0.2, 0.1), rig.now_ns) == ""
    tick = rig.tick()
    assert tick.mode is Mode.TELEOP and tick.observation_age_ns is None
    assert any("TELEOP" in event for event in tick.events)


@pytest.mark.parametrize("ramp_s", [0.0, 0.2])
def test_the_robot_follows_the_human_and_stays_within_its_limits_at_every_change_of_driver(ramp_s):
    rig = Rig(LoopSettings(50.0, 0.5, handoff_ramp_s=ramp_s))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(12)
    for _ in range(100):
        assert rig.loop.offer_teleop(set_point(rig, -0.5, 0.3), rig.now_ns) == ""
        rig.tick()
    np.testing.assert_allclose(rig.ticks[-1].command.positions, [-0.5, 0.3], atol=1e-6)
    assert rig.loop.engage(rig.now_ns) == ""
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(10)
    rig.assert_within_limits()


def test_a_change_of_driver_is_drawn_out_over_the_ramp():
    moved = []
    for ramp_s in (0.0, 0.4):
        rig = Rig(LoopSettings(50.0, 0.5, handoff_ramp_s=ramp_s))
        rig.tick()
        rig.loop.offer_teleop(set_point(rig, 0.03, 0.0), rig.now_ns)
        moved.append(rig.tick(8).command.positions[0])
    assert 0 < moved[1] < moved[0]


def test_nothing_of_the_policys_queue_survives_a_takeover():
    rig = Rig(LoopSettings(50.0, 0.5, shadow=False))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    pending = rig.ask_later()
    rig.loop.offer_teleop(set_point(rig, 0.0, 0.0), rig.now_ns)
    rig.tick(3)
    assert not rig.answer(pending)
    assert rig.loop.engage(rig.now_ns) == ""
    assert not rig.answer(pending)
    assert rig.tick().observation_age_ns is None, "it waits for a chunk of its own"


def test_a_human_who_falls_silent_leaves_the_robot_in_hold():
    rig = Rig()
    rig.tick()
    rig.loop.offer_teleop(set_point(rig, 0.1, 0.1), rig.now_ns)
    rig.tick(25)
    assert rig.loop.mode is Mode.TELEOP
    rig.tick(2)
    assert rig.loop.mode is Mode.HOLD and "vla_policy/teleop" in rig.loop.why
    assert rig.loop.fault.age_s > rig.loop.fault.limit_s


def test_takeover_by_request_waits_for_the_hand_and_lets_the_robot_come_to_rest():
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings("request")))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(12)
    rig.loop.offer_teleop(set_point(rig, 0.5, 0.1), rig.now_ns)
    assert rig.tick().mode is Mode.POLICY, "a message alone takes nothing over"
    assert rig.loop.takeover(rig.now_ns) == ""
    assert rig.tick().mode is Mode.TELEOP
    rig.tick(15)
    assert not rig.ticks[-1].command.velocities.any()
    assert rig.loop.offer_teleop(set_point(rig, 0.5, 0.1), rig.now_ns) == ""
    assert rig.tick(2).command.velocities.any()


def test_takeover_by_motion_counts_from_where_the_hand_was():
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings("motion", threshold_rad=0.05)))
    rig.engage()
    for offset in (0.0, 0.03, -0.03):
        rig.loop.offer_teleop(set_point(rig, 0.5 + offset, 0.1), rig.now_ns)
        assert rig.tick().mode is Mode.POLICY
    rig.loop.offer_teleop(set_point(rig, 0.56, 0.1), rig.now_ns)
    assert rig.tick().mode is Mode.TELEOP


def test_a_fresh_shadow_chunk_near_the_robot_is_followed_from_engage_on():
    rig = Rig()
    rig.tick()
    rig.loop.offer_teleop(set_point(rig, 0.0, 0.0), rig.now_ns)
    rig.tick(2)
    observation = rig.ask()
    assert rig.answer(observation, goal=(0.1, -0.1)), "kept, and shown"
    assert rig.tick().mode is Mode.TELEOP
    rig.loop.engage(rig.now_ns)
    assert rig.tick().observation_age_ns == rig.now_ns - observation.stamp_ns


@pytest.mark.parametrize(("goal", "wait"), [((0.9, -1.9), 10), ((0.1, -0.1), 30)])
def test_a_shadow_chunk_that_is_far_away_or_old_is_dropped(goal, wait):
    rig = Rig()
    rig.tick()
    rig.loop.offer_teleop(set_point(rig, 0.0, 0.0), rig.now_ns)
    rig.tick()
    rig.answer(rig.ask(), goal)
    for _ in range(wait):
        rig.loop.offer_teleop(set_point(rig, 0.0, 0.0), rig.now_ns)
        rig.tick()
    rig.loop.engage(rig.now_ns)
    assert rig.tick().observation_age_ns is None


def test_an_unusable_shadow_chunk_does_not_disturb_the_human():
    rig = Rig()
    rig.tick()
    rig.loop.offer_teleop(set_point(rig, 0.0, 0.0), rig.now_ns)
    rig.tick()
    assert not rig.answer(rig.ask(), goal=(np.nan, 0.0))
    assert rig.tick().mode is Mode.TELEOP


def test_the_emergency_stop_brakes_latches_and_is_reset_only_when_let_go():
    rig = Rig()
    rig.engage()
    rig.answer(rig.ask(), goal=(0.9, -1.9))
    rig.tick(12)
    rig.loop.press_estop(True)
    assert rig.tick().mode is Mode.ESTOP
    rig.tick(30)
    assert not rig.ticks[-1].command.velocities.any()
    rig.assert_within_limits()
    assert "ESTOP" in rig.loop.engage(rig.now_ns)
    assert "ESTOP" in rig.loop.takeover(rig.now_ns)
    assert "ESTOP" in rig.loop.offer_teleop(set_point(rig, 0.0, 0.0), rig.now_ns)
    rig.loop.hold("asked to hold", is_fault=False)
    assert rig.tick().mode is Mode.ESTOP
    assert "still true" in rig.loop.reset_estop()
    rig.loop.press_estop(False)
    assert rig.tick().mode is Mode.ESTOP, "letting go resets nothing"
    assert rig.loop.reset_estop() == ""
    assert rig.tick().mode is Mode.HOLD


def test_a_trajectory_that_is_long_over_ends_in_hold_with_its_reason():
    rig = Rig()
    rig.engage()
    assert "ended 2.00 s ago" in rig.loop.offer_teleop(set_point(rig, 0.0, 0.0, ahead_ms=-2000), rig.now_ns)
    assert rig.tick().mode is Mode.HOLD and "ended 2.00 s ago" in rig.loop.why


def test_a_hand_beyond_a_limit_takes_over_and_is_bounded():
    rig = Rig()
    rig.engage()
    for _ in range(100):
        assert rig.loop.offer_teleop(set_point(rig, 2.0, 0.0), rig.now_ns) == ""
        tick = rig.tick()
        assert tick.mode is Mode.TELEOP
    rig.assert_within_limits()
    assert tick.command is not None and "outside" in tick.command.reason
    np.testing.assert_allclose(tick.command.positions, [1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(("takeover", "mode"), [("message", "HOLD"), ("motion", "HOLD"), ("request", "POLICY")])
def test_a_message_that_cannot_be_read_stops_the_policy_wherever_a_message_may_take_over(takeover, mode):
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings(takeover), handoff_ramp_s=0.0))
    rig.engage()
    rig.loop.reject_teleop("trajectory has no points")
    assert rig.tick().mode == mode


def test_a_message_that_cannot_be_read_while_a_human_drives_ends_in_hold_and_says_why():
    rig = Rig()
    rig.tick()
    assert rig.loop.offer_teleop(set_point(rig, 0.1, 0.0), rig.now_ns) == ""
    rig.loop.reject_teleop("trajectory has no points")
    assert rig.tick().mode is Mode.HOLD and "no points" in rig.loop.why and rig.loop.fault is not None


def test_arm_and_gripper_led_by_two_devices_both_arrive():
    rig, nan = Rig(), float("nan")
    rig.tick()
    for _ in range(100):
        for positions in ((0.4, nan), (nan, -0.3)):
            assert rig.loop.offer_teleop(set_point(rig, *positions), rig.now_ns) == ""
        tick = rig.tick()
    assert tick.command is not None
    np.testing.assert_allclose(tick.command.positions, [0.4, -0.3], atol=1e-6)


def test_a_joint_that_nobody_names_stays_where_it_is():
    rig = Rig()
    rig.tick()
    for _ in range(50):
        assert rig.loop.offer_teleop(set_point(rig, 0.2, float("nan")), rig.now_ns) == ""
        tick = rig.tick()
    assert tick.command is not None
    np.testing.assert_allclose(tick.command.positions, [0.2, 0.0], atol=1e-6)


def test_a_camera_whose_pixels_never_change_is_found_frozen():
    rig = Rig()
    rig.frozen.add("wrist")
    rig.engage()
    for _ in range(60):
        observation = rig.loop.begin_request(rig.now_ns)
        if observation is not None:
            rig.answer(observation)
        rig.tick()
    assert rig.loop.mode is Mode.HOLD and "camera 'wrist' is frozen" in rig.loop.why


def test_a_request_that_got_lost_is_made_again_and_either_answer_is_taken():
    rig = Rig()
    rig.engage()
    first = rig.ask()
    rig.tick(12)
    assert rig.loop.begin_request(rig.now_ns) is None
    rig.tick(1)
    second = rig.ask()
    assert rig.answer(first) and rig.answer(second)


def test_retries_do_not_keep_a_dead_model_alive():
    rig = Rig()
    rig.engage()
    for _ in range(30):
        rig.loop.begin_request(rig.now_ns)
        rig.tick()
    assert rig.loop.mode is Mode.HOLD and "no result came" in rig.loop.why


def test_a_missing_model_node_is_a_fault_of_its_own():
    rig = Rig()
    rig.engage()
    rig.now_ns += PERIOD_NS
    rig.loop.tick(rig.now_ns, Fault("model", "vla_model is not heard", 0.6, 0.5))
    assert rig.loop.mode is Mode.HOLD and rig.loop.why == "vla_model is not heard"
    assert rig.loop.fault.kind == "model"


def test_a_jump_of_the_clock_lets_go_and_forgets_what_was_stamped_before():
    rig = Rig()
    rig.engage()
    rig.loop.clock_jumped("ROS time jumped by -12 s", rig.now_ns)
    assert rig.loop.mode is Mode.HOLD and "jumped" in rig.loop.why
    assert rig.loop.sensors.joints.newest() is None


def test_a_jump_of_the_clock_is_named_while_a_human_drives():
    rig = Rig()
    rig.tick()
    rig.loop.offer_teleop(set_point(rig, 0.1, 0.0), rig.now_ns)
    rig.loop.clock_jumped("ROS time jumped by -12 s", rig.now_ns)
    assert rig.loop.mode is Mode.HOLD and "jumped" in rig.loop.why and rig.loop.fault.kind == "clock"


def test_missed_ticks_are_named_while_a_human_drives_who_goes_on():
    rig = Rig()
    rig.tick()
    rig.loop.offer_teleop(set_point(rig, 0.1, 0.0), rig.now_ns)
    rig.now_ns += 200 * MS
    tick = rig.tick()
    assert tick.mode is Mode.TELEOP and rig.loop.fault.kind == "overrun"
    assert any("the control thread did not run for 0.2" in event for event in tick.events)


def test_a_takeover_that_would_not_last_is_refused():
    rig = Rig()
    rig.tick()
    rig.fresh.remove("joints")
    rig.tick(20)
    assert "joint state on" in rig.loop.takeover(rig.now_ns)
    assert "joint state on" in rig.loop.offer_teleop(set_point(rig, 0.1, 0.0), rig.now_ns)
    assert rig.tick().mode is Mode.HOLD


def test_an_old_fault_is_no_longer_told_when_somebody_drives_again():
    rig = Rig()
    rig.engage()
    rig.loop.clock_jumped("ROS time jumped by -12 s", rig.now_ns)
    assert rig.loop.fault is not None
    rig.tick()
    rig.engage()
    assert rig.loop.fault is None
