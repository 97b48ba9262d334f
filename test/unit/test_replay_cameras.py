"""A recording's observations, made again for a policy that looks at other cameras than the recorded one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from replay_helpers import (
    JPEG_ROBOT,
    START_NS,
    Said,
    commands,
    jpeg,
    mode,
    sensors,
    swing_policy,
    task,
    trace,
    write_bag,
)
from runtime_helpers import MS, ROBOT

from vla_ros.replay.offline import ReplayPolicy
from vla_ros.replay.records import Replay
from vla_ros.replay.run import replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig

RECORDED = ReplaySettings(latency_ms=None)
JOINTS = (0.11, 0.12)


def replay(folder: Path, policy: ReplayPolicy, *parts: Any, robot: RobotConfig = ROBOT) -> Replay:
    bag = write_bag(folder / "bag", commands(1), task(), mode(0.1, "POLICY"), *parts)
    return replay_bag(bag, robot, policy, RECORDED)


def refusals(found: Replay) -> list[str]:
    return [event.line for event in found.events if event.kind == "processor"]


def without(said: Iterator[Said], topic: str, from_ms: float, to_ms: float) -> Iterator[Said]:
    """``said`` but for a topic's messages within a time."""
    for item in said:
        if not (item.topic == topic and from_ms * MS <= item.time_ns - START_NS <= to_ms * MS):
            yield item


def test_a_policy_with_fewer_cameras_is_asked_about_its_own_ones(tmp_path):
    policy = swing_policy(cameras=("front",))
    found = replay(tmp_path, policy, sensors(1), trace(0.35, 0.3, JOINTS, 0.36, 0.47))
    (asked,) = policy.processor.asked
    assert list(asked.images) == ["front"] and asked.images["front"].max() == 7
    assert asked.headers_ns == {"front": START_NS + 350 * MS} and asked.stamp_ns == START_NS + 350 * MS
    assert asked.joint_positions.tolist() == list(JOINTS)
    assert [c.header_ns - START_NS for c in found.chunks] == [350 * MS] and not refusals(found)


def test_a_policy_with_more_cameras_sees_by_them_what_was_nearest(tmp_path):
    policy = swing_policy()
    seen = without(sensors(1), "/wrist/image", 301, 399)
    found = replay(tmp_path, policy, seen, trace(0.35, None, JOINTS, 0.36, 0.47))
    (asked,) = policy.processor.asked
    assert asked.images["front"].max() == 7 and asked.images["wrist"].max() in (6, 8)
    assert set(asked.headers_ns) == {"front", "wrist"} and asked.stamp_ns == min(asked.headers_ns.values())
    assert len(found.chunks) == 1 and not refusals(found)


def test_an_image_too_far_away_in_time_is_none_of_the_observation(tmp_path):
    seen = without(sensors(1), "/wrist/image", 201, 1000)
    found = replay(tmp_path, swing_policy(), seen, trace(0.35, None, JOINTS, 0.36, 0.47))
    assert not found.chunks
    assert len(refusals(found)) == 1 and "no image of camera 'wrist'" in refusals(found)[0]


def test_an_image_that_cannot_be_decoded_costs_the_answers_it_was_part_of(tmp_path):
    def as_jpegs() -> Iterator[Said]:
        for item in sensors(1):
            is_damaged = item.time_ns - START_NS == 350 * MS
            yield jpeg(item, is_damaged) if item.topic == "/front/image" else item

    traces = [trace(0.35, 0.35, JOINTS, 0.36, 0.47), trace(0.6, 0.6, JOINTS, 0.61, 0.7)]
    found = replay(tmp_path, swing_policy(), as_jpegs(), traces, robot=JPEG_ROBOT)
    assert [c.header_ns - START_NS for c in found.chunks] == [600 * MS]
    assert len(refusals(found)) == 1 and "cannot be decoded" in refusals(found)[0]
    assert np.isfinite(found.commands.values).all()
