"""A recording says which cameras lost images on the way, and what helps; a few are nothing to speak of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vla_ros.record.recorder import TopicReport
from vla_ros.record.run import _judge
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE


def recorded(msgtype: str, num_messages: int, num_lost: int) -> SimpleNamespace:
    report = TopicReport("/front/image", msgtype, num_messages, num_lost=num_lost)
    return SimpleNamespace(topic=SimpleNamespace(is_needed=True), foreign_types=set(), report=report)


@pytest.mark.parametrize(
    ("msgtype", "num_messages", "num_lost", "is_named"),
    [(IMAGE, 57, 37, True), (COMPRESSED_IMAGE, 14, 79, True), (IMAGE, 1000, 40, False), (JOINT_STATE, 57, 37, False)],
)
def test_lost_images_are_named_with_the_dds_profile(msgtype: str, num_messages: int, num_lost: int, is_named: bool):
    _, problems = _judge([recorded(msgtype, num_messages, num_lost)], "robot.yaml")
    assert len(problems) == is_named
    for line in problems:
        assert line.startswith(
            f"{num_lost} images of /front/image were lost on the way, {num_messages} came; start their"
        )
        assert "PROFILES_FILE=" in line and line.endswith("config/fastdds.xml")
