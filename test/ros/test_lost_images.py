"""A recording says which cameras lost images on the way, and what helps; a few are nothing to speak of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vla_ros.record.recorder import TopicReport
from vla_ros.record.run import _judge
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE

ROBOT = RobotConfig(
    name="one",
    control_rate_hz=50.0,
    joints=(JointConfig("joint", -1.0, 1.0, 1.0, 1.0),),
    cameras=(CameraConfig("front", "front/image", 640, 480, 0.2, rate_hz=30.0),),
    outputs=(OutputConfig("arm", ("joint",)),),
)


def judged(msgtype: str, num_messages: int, num_lost: int = 0, rate_hz: float = 30.0) -> tuple[str, ...]:
    camera = TopicReport("/front/image", msgtype, num_messages, rate_hz=rate_hz, num_lost=num_lost)
    joints = TopicReport("/joint_states", JOINT_STATE, 100, rate_hz=100.0, num_lost=99)
    seen = {"topic": SimpleNamespace(is_needed=True), "foreign_types": set(), "unnamed": ()}
    topics = [SimpleNamespace(**seen, report=report) for report in (camera, joints)]
    return _judge(topics, ROBOT, "robot.yaml")[1]


@pytest.mark.parametrize(
    ("msgtype", "num_messages", "num_lost", "is_named"),
    [(IMAGE, 57, 37, True), (COMPRESSED_IMAGE, 14, 79, True), (IMAGE, 1000, 40, False)],
)
def test_lost_images_are_named_with_the_dds_profile(msgtype: str, num_messages: int, num_lost: int, is_named: bool):
    problems = judged(msgtype, num_messages, num_lost)
    assert len(problems) == is_named
    for line in problems:
        assert line.startswith(
            f"{num_lost} images of /front/image were lost on the way, {num_messages} came; start the"
        )
        assert "PROFILES_FILE=" in line and "config/fastdds.xml" in line


@pytest.mark.parametrize(("rate_hz", "is_named"), [(29.0, False), (12.5, True)])
def test_images_that_come_less_often_than_the_robot_file_says_are_named_with_what_may_help(rate_hz, is_named):
    problems = judged(IMAGE, 100, rate_hz=rate_hz)
    assert len(problems) == is_named
    for line in problems:
        assert "came at 12.5 Hz; expected 30 Hz (rate_hz in robot.yaml)" in line and "config/fastdds.xml" in line
