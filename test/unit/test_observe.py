"""Buffers and observations: the newest consistent view of the sensors, or the reason why there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import APART, MS, ROBOT, S, fill_sensors, frame, joints

from vla_ros.observing.buffers import NUM_FRAMES, NUM_JOINT_SAMPLES, FrameBuffer, JointBuffer, SensorBuffers
from vla_ros.observing.freshness import joint_fault, jump_fault
from vla_ros.observing.observe import NoObservation, match_policy, observe
from vla_ros.recordings.series import TimeSeries
from vla_ros.robot.parts import JointConfig, OutputConfig
from vla_ros.types import Observation

NAN = np.nan


def make_sensors(now_ns: int = 10 * S) -> SensorBuffers:
    sensors = SensorBuffers(ROBOT)
    fill_sensors(sensors, now_ns)
    return sensors


def reason(sensors: SensorBuffers, now_ns: int) -> str:
    outcome = observe(ROBOT, sensors, now_ns)
    assert isinstance(outcome, NoObservation)
    return outcome.reason


def test_a_frame_buffer_keeps_the_newest_frames_and_ignores_an_older_one():
    buffer = FrameBuffer()
    for i in range(20):
        buffer.add(frame("front", i * MS))
    buffer.add(frame("front", 3 * MS))
    assert buffer.newest().stamp_ns == 19 * MS
    assert buffer.nearest(0).stamp_ns == (20 - NUM_FRAMES) * MS


def test_joints_are_interpolated_to_the_moment_asked_for():
    buffer = JointBuffer(np.zeros(2, bool), np.full(2, np.inf))
    for i in range(4):
        buffer.add(joints(i * 10 * MS, i * 1.0, -i * 2.0))
    np.testing.assert_allclose(buffer.at(15 * MS).positions, [1.5, -3.0])
    np.testing.assert_allclose(buffer.at(20 * MS).positions, [2.0, -4.0])
    np.testing.assert_allclose(buffer.at(99 * MS).positions, [3.0, -6.0])
    assert buffer.at(-1) is None


@pytest.mark.parametrize(("ms", "expected"), [(11, 3.1), (14, np.pi), (15, -np.pi), (19, -3.1)])
def test_a_continuous_joint_goes_from_pi_to_minus_pi_the_short_way(ms, expected):
    wrist = JointConfig("wrist", -3.14, 3.14, 1.0, 5.0)
    robot = replace(ROBOT, joints=(ROBOT.joints[0], wrist), outputs=(OutputConfig("arm", ("shoulder", "wrist")),))
    live = SensorBuffers(robot).joints
    times_ns, rows = np.array([10, 20]) * MS, np.array([[2.0, 3.1], [-2.0, -3.1]])
    for time_ns, row in zip(times_ns.tolist(), rows, strict=True):
        live.add(joints(time_ns, *row))
    found = live.at(ms * MS).positions
    assert abs(found[1] - expected) < 0.05
    assert found[0] == 2.0 - 0.4 * (ms - 10), "a joint with a stop on the way cannot have gone past it"
    offline = TimeSeries(times_ns, rows).at(np.array([ms * MS]), turns=robot.turns)
    np.testing.assert_array_equal(offline[0], found)


def test_joints_of_several_sources_are_put_together_at_the_moment_asked_for():
    live = SensorBuffers(APART).joints
    for i in range(4):
        live.add(joints(i * 100 * MS, i * 0.1, NAN))
    assert live.newest() is None, "the other source was not heard yet"
    live.add(joints(50 * MS, NAN, -1.0))
    live.add(joints(250 * MS, NAN, -0.8))
    assert live.newest().stamp_ns == 250 * MS
    np.testing.assert_allclose(live.newest().positions, [0.25, -0.8])
    np.testing.assert_allclose(live.at(150 * MS).positions, [0.15, -0.9])
    assert live.at(40 * MS) is None, "one source was not heard yet at that time"


@pytest.mark.parametrize(
    ("arm_ms", "hand_ms", "named"),
    [
        (0, 0, ""),
        (190, 490, ""),
        (210, 0, "joint state on 'arm/joint_states' is 0.21 s old; expected at most 0.2 s"),
        (0, 510, "joint state on 'hand/joint_states' is 0.51 s old; expected at most 0.5 s"),
        (None, 0, "no joint state has come on 'arm/joint_states'"),
        (0, None, "no joint state has come on 'hand/joint_states'"),
    ],
)
def test_a_source_that_falls_silent_alone_is_named_by_its_own_age(arm_ms, hand_ms, named):
    sensors = SensorBuffers(APART)
    for positions, age_ms in (((0.0, NAN), arm_ms), ((NAN, 0.0), hand_ms)):
        if age_ms is not None:
            sensors.joints.add(joints(10 * S - age_ms * MS, *positions))
    fault = joint_fault(APART, sensors, 10 * S)
    assert (fault.line if fault else "") == named


def test_two_messages_on_one_topic_are_told_apart_by_their_joints():
    arm, hand = (replace(source, topic="joint_states", rename={}) for source in APART.joint_states)
    together = replace(APART, joint_states=(arm, hand))
    sensors = SensorBuffers(together)
    sensors.joints.add(joints(10 * S, 0.0, NAN))
    assert joint_fault(together, sensors, 10 * S).line == "no joint state has come of elbow on 'joint_states'"


def test_a_message_with_some_of_the_joints_makes_each_joint_as_old_as_the_newest_that_names_it():
    sensors = SensorBuffers(ROBOT)
    assert joint_fault(ROBOT, sensors, 10 * S).line == "no joint state has come on 'joint_states'"
    for i in range(30):
        sensors.joints.add(joints(10 * S + i * 10 * MS, i * 0.01, NAN))
        assert sensors.joints.newest() is None
    line = "no joint state has come of elbow on 'joint_states'"
    assert joint_fault(ROBOT, sensors, 10 * S + 290 * MS).line == line
    sensors.joints.add(joints(10 * S + 105 * MS, NAN, 0.5))
    np.testing.assert_allclose(sensors.joints.newest().positions, [0.105, 0.5])
    assert joint_fault(ROBOT, sensors, 10 * S + 300 * MS) is None
    late = joint_fault(ROBOT, sensors, 10 * S + 310 * MS)
    assert late.line == "joint state of elbow on 'joint_states' is 0.20 s old; expected at most 0.2 s"


def test_a_joint_that_one_message_leaves_out_keeps_its_past():
    sensors = SensorBuffers(ROBOT)
    for i in range(3):
        sensors.joints.add(joints(10 * S + i * 10 * MS, i * 0.01, i * 0.02))
    sensors.joints.add(joints(10 * S + 30 * MS, 0.03, NAN))
    np.testing.assert_allclose(sensors.joints.at(10 * S + 15 * MS).positions, [0.015, 0.03])
    np.testing.assert_allclose(sensors.joints.newest().positions, [0.02, 0.04], err_msg="both at the same time")
    sensors.joints.add(joints(10 * S + 40 * MS, 0.04, 0.08))
    np.testing.assert_allclose(sensors.joints.newest().positions, [0.04, 0.08])


def test_a_jump_is_told_of_the_source_that_made_it():
    sensors = SensorBuffers(APART)
    for i, position in enumerate((0.0, 0.0, 1.5)):
        sensors.joints.add(joints(10 * S + i * 10 * MS, 0.0, NAN))
        sensors.joints.add(joints(10 * S + i * 10 * MS, NAN, position))
    fault = jump_fault(APART, sensors, 10 * S + 20 * MS)
    assert fault.line.startswith("joint state on 'hand/joint_states' jumped: joint 'elbow' by 1.50")


def test_the_joint_buffer_is_bounded():
    buffer = JointBuffer(np.zeros(2, bool), np.full(2, np.inf))
    for i in range(NUM_JOINT_SAMPLES + 5):
        buffer.add(joints(i, 0.0, 0.0))
    assert buffer.at(4) is None
    assert buffer.at(5) is not None


def test_an_observation_is_of_the_time_of_the_camera_that_lags_most():
    sensors = make_sensors()
    sensors.cameras["front"].add(frame("front", 10 * S + 30 * MS))
    observation = observe(ROBOT, sensors, 10 * S + 40 * MS)
    assert isinstance(observation, Observation)
    assert observation.stamp_ns == 10 * S
    assert list(observation.images) == ["front", "wrist"]
    assert observation.images["front"][0, 0, 0] == frame("front", 10 * S).image[0, 0, 0]


def test_the_joints_of_an_observation_are_those_at_its_time():
    sensors = make_sensors()
    sensors.joints.add(joints(10 * S + 20 * MS, 0.2, 0.4))
    for camera in sensors.cameras:
        sensors.cameras[camera].add(frame(camera, 10 * S + 5 * MS))
    observation = observe(ROBOT, sensors, 10 * S + 30 * MS)
    np.testing.assert_allclose(observation.joint_positions, [0.05, 0.1])


def test_cameras_too_far_apart_make_no_observation():
    sensors = SensorBuffers(ROBOT)
    sensors.task = "touch"
    sensors.joints.add(joints(9 * S, 0.0, 0.0))
    sensors.joints.add(joints(10 * S, 0.0, 0.0))
    sensors.cameras["front"].add(frame("front", 10 * S))
    sensors.cameras["wrist"].add(frame("wrist", 10 * S - 80 * MS))
    assert "cameras 'wrist' and 'front' are 0.080 s apart" in reason(sensors, 10 * S)


def test_a_missing_camera_is_named():
    sensors = make_sensors()
    sensors.cameras["wrist"] = FrameBuffer()
    assert "camera 'wrist'" in reason(sensors, 10 * S)


def test_a_stale_camera_is_named_with_its_age():
    sensors = make_sensors()
    sensors.joints.add(joints(10 * S + 400 * MS, 0.0, 0.0))
    assert "camera 'front' is 0.40 s old; expected at most 0.3 s" in reason(sensors, 10 * S + 400 * MS)


def test_missing_and_stale_joints_are_named():
    sensors = make_sensors()
    assert "joint state on 'joint_states' is 0.25 s old" in reason(sensors, 10 * S + 250 * MS)
    assert "no joint state has come on 'joint_states'" in reason(SensorBuffers(ROBOT), 10 * S)


def test_without_an_instruction_there_is_no_observation():
    sensors = make_sensors()
    sensors.task = ""
    assert "no instruction" in reason(sensors, 10 * S)


def test_an_image_older_than_every_joint_sample_is_not_used():
    sensors = SensorBuffers(ROBOT)
    fill_sensors(sensors, 10 * S)
    sensors.joints.clear()
    sensors.joints.add(joints(10 * S + 10 * MS, 0.0, 0.0))
    assert "as old as the image of camera" in reason(sensors, 10 * S + 20 * MS)


def test_a_robot_keeps_just_the_cameras_the_policy_looks_at():
    matched = match_policy(ROBOT, ("shoulder", "elbow"), ("wrist",))
    assert matched.camera_names == ("wrist",)


@pytest.mark.parametrize(
    ("joint_names", "camera_names", "named"),
    [
        (("elbow", "shoulder"), ("front",), "joints elbow, shoulder"),
        (("shoulder", "elbow"), ("top",), "camera 'top'"),
    ],
)
def test_a_policy_for_another_robot_is_refused_by_what_differs(joint_names, camera_names, named):
    with pytest.raises(ValueError, match=named):
        match_policy(ROBOT, joint_names, camera_names)
