"""Bags that are cut off, and what cannot be used of a bag or of a policy's answers: counted, and everything else goes
on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    write_bag,
)
from runtime_helpers import HORIZON, MS, ROBOT

from vla_ros.replay.judge.summary import summarize
from vla_ros.replay.records import Replay
from vla_ros.replay.run import BagRun, UnusableBag, replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import WatchdogConfig

FIXED = ReplaySettings(latency_ms=30.0)
ASSUMED = ReplaySettings(latency_ms=None, unknown_latency_ms=30.0)


def replay(folder: Path, *parts: Any, robot: RobotConfig = ROBOT, **policy: Any) -> Replay:
    return replay_bag(write_bag(folder / "bag", *parts), robot, swing_policy(**policy), FIXED)


def lines(found: Replay, kind: str) -> list[str]:
    return [event.line for event in found.events if event.kind == kind]


def killed(bag: Path, share: float) -> Path:
    """What a kill leaves: no index, no metadata."""
    (path,) = bag.glob("*.mcap")
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    (bag / "metadata.yaml").unlink()
    return bag


@pytest.mark.parametrize("settings", [FIXED, ASSUMED])
def test_a_killed_recording_of_sensors_and_commands_alone_is_used(tmp_path, settings):
    bag = killed(write_bag(tmp_path / "bag", sensors(4), commands(4), task()), 0.6)
    found = replay_bag(bag, ROBOT, swing_policy(), settings)
    assert len(found.chunks) > 10 and any("messages before are used" in line for line in found.problems)
    assert found.assumed_latency_ms == (30.0 if settings is ASSUMED else None)


def cut_in_its_header(folder: Path) -> Path:
    return killed(write_bag(folder / "bag", sensors(1), task()), 0.001)


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize("make", [cut_in_its_header, empty_folder, lambda folder: folder / "nowhere"])
@pytest.mark.parametrize("settings", [FIXED, ReplaySettings(latency_ms=None)])
def test_a_bag_of_which_nothing_can_be_read_is_told_from_settings_that_are_wrong(tmp_path, make, settings):
    bag = make(tmp_path)
    with pytest.raises(UnusableBag) as error:
        replay_bag(bag, ROBOT, swing_policy(), settings)
    assert str(bag) in str(error.value) and "\n" not in str(error.value)


def test_an_error_of_ours_is_not_taken_for_one_of_the_bag(tmp_path, monkeypatch):
    def fail(run: BagRun, event: object) -> None:
        raise ValueError("shapes do not match")

    monkeypatch.setattr(BagRun, "take", fail)
    with pytest.raises(ValueError, match="shapes do not match") as error:
        replay(tmp_path, sensors(1), task())
    assert not isinstance(error.value, UnusableBag)


def test_one_image_that_cannot_be_decoded_does_not_cost_the_bag(tmp_path):
    def seen() -> Iterator[Said]:
        for item in sensors(2):
            is_damaged = item.time_ns - START_NS in (500 * MS, 1000 * MS)
            yield jpeg(item, is_damaged) if item.topic == "/front/image" else item

    # The first is the newest when the policy begins to drive, the second comes while it does.
    parts = seen(), commands(2), task(), mode(0.0, "HOLD"), mode(0.501, "POLICY")
    found = replay(tmp_path, *parts, robot=JPEG_ROBOT)
    refused = [event for event in found.events if event.kind == "processor"]
    assert refused and all("cannot be decoded" in event.line for event in refused)
    assert {round((event.time_ns - START_NS) / (500 * MS)) for event in refused} == {1, 2}
    assert len(refused) < 10 and not lines(found, "watchdog")
    assert len(found.chunks) > 15


def test_a_missing_topic_that_leaves_no_chunk_is_in_the_error(tmp_path):
    said = [item for item in sensors(1) if item.topic != "/front/image"]
    found = replay(tmp_path, said, commands(1), task(), mode(0.1, "POLICY"))
    with pytest.raises(ValueError, match="no chunk in any bag") as error:
        summarize([found])
    assert "'/front/image' is not in the bag, which has /wrist/image: check the robot file" in str(error.value)
    assert "\n" not in str(error.value)


def test_why_no_answer_could_be_used_is_in_the_error(tmp_path):
    def fail(request: Any) -> np.ndarray:
        raise ValueError("no such expert")

    found = replay(tmp_path, sensors(1), commands(1), task(), mode(0.1, "POLICY"), infer=fail)
    with pytest.raises(ValueError, match="no chunk in any bag.*no such expert"):
        summarize([found])


@pytest.mark.parametrize(("driver", "action"), [("POLICY", "hold"), ("POLICY", "recover"), ("TELEOP", "hold")])
def test_answers_that_are_not_finite_are_refused_and_counted_whoever_drives(tmp_path, driver, action):
    num_asked = 0

    def nothing(request: Any) -> np.ndarray:
        nonlocal num_asked
        num_asked += 1
        return np.full((HORIZON, 2), np.nan)

    robot = replace(ROBOT, watchdogs=WatchdogConfig(answer=action))
    found = replay(tmp_path, sensors(1), commands(1), task(), mode(0.1, driver), robot=robot, infer=nothing)
    refused = lines(found, "processor")
    assert not found.chunks and num_asked > 5
    assert num_asked - 1 <= len(refused) <= num_asked and all("not finite" in line for line in refused)
    assert not lines(found, "watchdog"), "a refusal is counted once"


def test_a_fault_that_is_braked_for_is_counted_once_however_long_it_lasts(tmp_path):
    robot = replace(ROBOT, watchdogs=WatchdogConfig(camera="recover", max_recovery_s=5.0))
    found = replay(tmp_path, sensors(3, gap_s=(1.0, 1.8)), commands(3), task(), mode(0.1, "POLICY"), robot=robot)
    stops = lines(found, "watchdog")
    assert len(stops) == 1 and stops[0].startswith("braking: camera 'front' is 0.3")
    assert found.chunks[-1].header_ns > START_NS + 2500 * MS


def test_a_fault_in_the_tick_that_follows_engaging_is_counted_once(tmp_path):
    # The front camera's last image is 0.295 s old when the policy begins to drive, and too old at the next tick.
    parts = sensors(1.5, gap_s=(1.0, 1.5)), commands(1.5), task(), mode(0.0, "HOLD"), mode(1.245, "POLICY")
    found = replay(tmp_path, *parts)
    stops = lines(found, "watchdog")
    assert len(stops) == 1 and "HOLD: camera 'front' is 0.3" in stops[0]
