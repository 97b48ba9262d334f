"""A human's devices: what they say, who of them is followed, and how evenly."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import leader
import numpy as np
import pytest
from runtime_helpers import MS, ROBOT, Rig

from vla_ros import topics
from vla_ros.hands import hands_of
from vla_ros.robot.parts import TeleopConfig
from vla_ros.runtime.loop import LoopSettings
from vla_ros.runtime.teleop import TeleopSettings, TeleopTrajectory
from vla_ros.types import Mode

LEADER = TeleopConfig(
    "joint_states",
    "leader/joint_states",
    rename={"joint_1": "shoulder"},
    sign={"shoulder": -1},
    offset={"shoulder": 0.5},
    scale={"elbow": 2.0},
    max_distance=0.1,
)
NAMES = ("shoulder", "elbow")
NAN = float("nan")


def state(**positions: float) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=3, nanosec=5)
    names, values = list(positions), list(positions.values())
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=names, position=values, velocity=[])


def hand_of_leader(**changes):
    return hands_of(replace(ROBOT, teleop=(replace(LEADER, **changes),)))[0]


@pytest.mark.parametrize(
    ("message", "positions"),
    [
        (state(joint_1=0.2, elbow=0.3), (0.3, 0.6)),
        (state(elbow=-0.1, wheel=9.0, joint_1=0.0), (0.5, -0.2)),
        (state(elbow=0.3), (NAN, 0.6)),
    ],
)
def test_a_leaders_joints_become_the_robots(message, positions):
    trajectory = hand_of_leader().parse(message, NAMES)
    np.testing.assert_allclose(trajectory.positions, [positions])
    assert trajectory.stamp_ns == 3_000_000_005 and trajectory.times_s.tolist() == [0.0]


def test_a_joint_state_of_other_joints_says_nothing():
    assert hand_of_leader().parse(state(wheel=1.0, shoulder=0.3), NAMES) is None


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (state(joint_1=NAN, elbow=0.0), "'joint_1' is nan"),
        (SimpleNamespace(**{**vars(state(elbow=0.0)), "position": []}), "1 names and 0 position values"),
        (SimpleNamespace(**{**vars(state()), "name": ["elbow", "elbow"], "position": [0.0, 0.0]}), "twice"),
    ],
)
def test_a_leaders_message_that_cannot_be_followed_is_refused_with_its_reason(message, named):
    with pytest.raises(ValueError, match=named):
        hand_of_leader().parse(message, NAMES)


def test_beside_a_leader_whoever_publishes_trajectories_is_heard():
    heard = [
        (hand.topic.name, hand.topic.type, hand.max_distance) for hand in hands_of(replace(ROBOT, teleop=(LEADER,)))
    ]
    assert heard == [
        ("leader/joint_states", topics.JOINT_STATE, 0.1),
        ("vla_policy/teleop", topics.TRAJECTORY, math.inf),
    ]
    assert [hand.topic for hand in hands_of(ROBOT)] == [topics.TELEOP]
    own = hands_of(replace(ROBOT, teleop=(TeleopConfig("joint_states"),)))
    assert [(hand.topic.name, hand.topic.type) for hand in own] == [("vla_policy/teleop", topics.JOINT_STATE)]


def test_each_of_two_leaders_with_equal_names_leads_its_own_joints():
    left, right = (TeleopConfig("joint_states", f"{name}/js", (name,), {"waist": name}) for name in NAMES)
    hands = hands_of(replace(ROBOT, teleop=(left, right)))
    assert [(hand.topic.name, hand.partners) for hand in hands[:2]] == [
        ("shoulder/js", ("elbow/js",)),
        ("elbow/js", ("shoulder/js",)),
    ]
    led = [hand.parse(state(waist=0.4, elbow=9.0, shoulder=9.0), NAMES).positions[0] for hand in hands[:2]]
    np.testing.assert_array_equal(led, [[0.4, NAN], [NAN, 0.4]])


def lead(
    rig: Rig,
    *positions: float,
    topic: str = "leader",
    max_distance: float = 0.1,
    partners: tuple[str, ...] = (),
) -> str:
    trajectory = TeleopTrajectory((rig.now_ns,), np.array([positions]), topic, max_distance, partners)
    return rig.loop.offer_teleop(trajectory, rig.now_ns)


def lead_left(rig: Rig, shoulder: float) -> str:
    return lead(rig, shoulder, NAN, topic="left", partners=("right",))


def lead_right(rig: Rig, elbow: float) -> str:
    return lead(rig, NAN, elbow, topic="right", partners=("left",))


def test_two_leaders_take_over_together_once_both_are_near_and_lead_each_its_joints():
    rig = Rig()
    rig.tick()
    assert lead_left(rig, 0.05) == "nothing has come on 'right', of a leader that is one device with the others"
    for _ in range(20):
        assert "'right' is 0.50 from the robot at joint 'elbow'" in lead_right(rig, -0.5)
        assert "'right' is 0.50 from the robot at joint 'elbow'" in lead_left(rig, 0.05), "near itself"
        assert rig.tick().mode is Mode.HOLD
    for i in range(60):
        assert lead_right(rig, -0.05 - 0.01 * i) == "" == lead_left(rig, 0.05 + 0.01 * i)
        assert rig.tick().mode is Mode.TELEOP
    np.testing.assert_allclose(rig.ticks[-1].command.positions, [0.64, -0.64], atol=0.05)
    rig.assert_within_limits()


def test_one_of_two_leaders_that_falls_silent_alone_ends_teleop_and_is_named_until_it_is_back():
    rig = Rig()
    rig.tick()
    lead_right(rig, 0.0)
    for _ in range(60):
        why = lead_left(rig, 0.0)
        rig.tick()
    assert rig.loop.mode is Mode.HOLD
    assert "nothing came on 'right' for" in rig.loop.why and "nothing came on 'right' for" in why
    assert lead_right(rig, 0.0) == "" and rig.loop.mode is Mode.TELEOP


@pytest.mark.parametrize("far", [False, True])
def test_who_asks_to_take_over_with_two_leaders_is_followed_when_both_are_near(far):
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings("request")))
    rig.tick()
    assert rig.loop.takeover(rig.now_ns) == ""
    for _ in range(10):
        lead_left(rig, 0.08)
        lead_right(rig, 0.5 if far else 0.08)
        assert rig.tick().mode is Mode.TELEOP
    assert ("'right' is 0.50" in rig.loop.waits(rig.now_ns)) is far
    assert rig.ticks[-1].command.positions.any() is not np.bool_(far)


@pytest.mark.parametrize("takeover", ["message", "motion"])
def test_a_leader_far_away_ends_what_the_policy_does_and_the_distance_is_named(takeover):
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings(takeover)))
    rig.engage()
    lead(rig, 0.3, -1.0)
    rig.tick()
    refusal = lead(rig, 0.3, -0.9)
    assert rig.tick().mode is Mode.HOLD
    for said in (refusal, rig.loop.why, rig.loop.fault.line):
        assert "'leader' is" in said and "joint 'elbow'; expected at most 0.1 (teleop.max_distance" in said
    while rig.loop.mode is Mode.HOLD:
        assert lead(rig, 0.0, -0.5 + 0.01 * len(rig.ticks)) == "" or rig.loop.mode is Mode.HOLD
        rig.tick()
        assert len(rig.ticks) < 100
    assert rig.loop.mode is Mode.TELEOP and abs(rig.ticks[-1].command.positions[1]) < 0.1


def test_a_leader_far_away_leaves_a_policy_alone_that_only_a_request_takes_over_from():
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings("request")))
    rig.engage()
    lead(rig, 0.3, -1.0)
    assert rig.tick().mode is Mode.POLICY


def test_who_asks_to_take_over_has_the_robot_at_rest_until_the_leader_is_near():
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings("request")))
    rig.engage()
    rig.answer(rig.ask(), goal=(0.3, -0.3))
    rig.tick(5)
    lead(rig, 0.9, 0.0)
    assert rig.loop.takeover(rig.now_ns) == ""
    assert "joint 'shoulder'; expected at most 0.1" in rig.loop.waits(rig.now_ns)
    for _ in range(60):
        assert "joint 'shoulder'" in lead(rig, 0.9, 0.0)
        assert rig.tick().mode is Mode.TELEOP, "a leader that is waited for isn't silent"
    place = rig.ticks[-1].command.positions
    assert not rig.ticks[-1].command.velocities.any()
    assert lead(rig, *(place + 0.05)) == "" == rig.loop.waits(rig.now_ns)
    for _ in range(50):
        assert lead(rig, *(place + 0.2)) == "", "distance counts at the takeover alone"
        rig.tick()
    np.testing.assert_allclose(rig.ticks[-1].command.positions, place + 0.2, atol=1e-6)
    rig.assert_within_limits()


def test_who_is_followed_is_not_disturbed_by_another_device():
    rig = Rig()
    rig.tick()
    for _ in range(100):
        assert lead(rig, 0.2, 0.1, topic="keyboard", max_distance=math.inf) == ""
        assert lead(rig, -0.9, -1.0) == ""
        rig.tick()
    assert rig.loop.mode is Mode.TELEOP
    np.testing.assert_allclose(rig.ticks[-1].command.positions, [0.2, 0.1], atol=1e-6)
    rig.tick(40)
    assert rig.loop.mode is Mode.HOLD and "'keyboard'" in rig.loop.why


def test_of_two_leaders_on_one_topic_each_waits_for_itself():
    rig = Rig()
    rig.tick()
    for _ in range(50):
        assert lead(rig, 0.05, NAN) == ""
        assert "'elbow'" in lead(rig, NAN, -0.5)
        rig.tick()
    np.testing.assert_allclose(rig.ticks[-1].command.positions, [0.05, 0.0], atol=1e-6)


def test_a_leader_that_was_never_near_falls_silent_like_any_other():
    rig = Rig(LoopSettings(50.0, 0.5, teleop=TeleopSettings("request")), replace(ROBOT, teleop=(LEADER,)))
    rig.tick()
    rig.loop.takeover(rig.now_ns)
    rig.tick(30)
    assert rig.loop.mode is Mode.HOLD and "'leader/joint_states'" in rig.loop.why


@pytest.mark.parametrize("jitter_of", ["reading", "way"])
@pytest.mark.parametrize("rate_hz", leader.RATES_HZ)
def test_a_hand_at_constant_speed_is_followed_at_that_speed_whatever_its_rate_and_jitter(rate_hz, jitter_of):
    row = leader.follow(jitter_of, rate_hz, 50.0, seed=0)
    assert row.is_good, row.line


def test_a_hand_whose_messages_come_further_apart_than_it_is_waited_for_is_followed_all_the_same():
    rig = Rig()
    rig.tick()
    for step in range(5):
        assert lead(rig, 0.1 * step, 0.0, max_distance=math.inf) == ""
        rig.tick(300 // 20)
    np.testing.assert_allclose(rig.ticks[-1].command.positions[0], 0.4, atol=1e-3)
    assert rig.now_ns > 300 * MS
