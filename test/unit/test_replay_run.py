"""A bag through the whole node: who drives, what is asked and when, and what is laid beside it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from replay_helpers import (
    COMMAND_NS,
    START_NS,
    Said,
    SwingProcessor,
    chunk,
    commanded,
    commands,
    mode,
    sensors,
    swing_policy,
    task,
    trace,
    write_bag,
)
from runtime_helpers import MS, ROBOT, S

from vla_ros.bags.definitions import message_type
from vla_ros.observing.buffers import NUM_FRAMES
from vla_ros.policies.pi.request import PiRequest
from vla_ros.replay.judge.summary import summarize
from vla_ros.replay.recorded import Recording
from vla_ros.replay.records import Replay
from vla_ros.replay.run import UnusableBag, replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot.parts import JointStateConfig, OutputConfig, TeleopConfig
from vla_ros.runtime.loop import ControlLoop
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING
from vla_ros.types import Continuation, JointSample, Observation

FIXED = ReplaySettings(latency_ms=30.0)


def replay(folder: Path, *parts: Any, settings: ReplaySettings = FIXED, **policy: Any) -> Replay:
    bag = write_bag(folder / "bag", *parts)
    return replay_bag(bag, ROBOT, swing_policy(**policy), settings)


@contextmanager
def counted_ticks() -> Iterator[list[int]]:
    """The times of every control tick within."""
    ticks, tick = [], ControlLoop.tick

    def counted(loop: ControlLoop, now_ns: int, *args: Any) -> Any:
        ticks.append(now_ns)
        return tick(loop, now_ns, *args)

    with patch.object(ControlLoop, "tick", counted):
        yield ticks


def teleop(seconds: float) -> Iterator[Said]:
    """A human who wants what was commanded."""
    for said in commands(seconds):
        yield replace(said, topic="/vla_policy/teleop")


def test_a_policy_that_wants_what_was_commanded_makes_no_error(tmp_path):
    found = replay(tmp_path, sensors(2), commands(2), task(), mode(0.1, "POLICY"))
    assert len(found.chunks) > 20 and {c.driver for c in found.chunks} == {"POLICY"}
    errors = np.concatenate([c.positions - c.commanded for c in found.chunks])
    assert np.nanmax(np.abs(errors)) < 1e-4  # linear between commands
    offsets = np.concatenate([c.measured - c.positions for c in found.chunks])
    np.testing.assert_allclose(offsets[np.isfinite(offsets)], 0.01, atol=1e-4)
    late = found.commands.times_ns > START_NS + 500 * MS
    recorded = np.stack([commanded(int(t)) for t in found.commands.times_ns[late]])
    np.testing.assert_allclose(found.commands.values[late], recorded, atol=5e-3)
    assert not found.problems and {event.kind for event in found.events} <= {"limit"}  # while it catches up


def test_an_error_of_the_policy_shows_in_its_chunks_and_commands(tmp_path):
    found = replay(tmp_path, sensors(2), commands(2), task(), mode(0.1, "POLICY"), offset=0.1)
    assert np.nanmean(np.concatenate([c.positions - c.commanded for c in found.chunks])) == pytest.approx(0.1, abs=1e-3)
    at = found.commands.at(np.array([START_NS + 1500 * MS]), 0.5)[0]
    np.testing.assert_allclose(at, commanded(START_NS + 1500 * MS) + 0.1, atol=0.01)


def test_drivers_are_as_recorded_and_nothing_is_asked_in_hold(tmp_path):
    modes = [mode(0.0, "HOLD"), mode(0.5, "POLICY"), mode(1.0, "TELEOP"), mode(1.5, "HOLD")]
    found = replay(tmp_path, sensors(2), commands(2), task(), modes)
    assert [(span.label, span.start_ns - START_NS) for span in found.modes] == [
        ("HOLD", 0), ("POLICY", 500 * MS), ("TELEOP", 1000 * MS), ("HOLD", 1500 * MS),
    ]  # fmt: skip
    by_driver = {d: [c for c in found.chunks if c.driver == d] for d in ("HOLD", "POLICY", "TELEOP")}
    assert by_driver["POLICY"] and by_driver["TELEOP"]
    assert all(c.asked_ns >= START_NS + 500 * MS for c in found.chunks)
    assert all(c.asked_ns < START_NS + 1500 * MS for c in found.chunks)
    assert [span.label for span in found.interventions] == ["TELEOP"]
    assert set(found.command_drivers) == {"HOLD", "POLICY", "TELEOP"}


def test_nothing_is_compared_beyond_a_change_of_driver(tmp_path):
    found = replay(tmp_path, sensors(2), commands(2), task(), mode(0.1, "POLICY"), mode(1.0, "TELEOP"))
    for c in found.chunks:
        is_known = np.isfinite(c.commanded).all(axis=1)
        end_ns = START_NS + (1000 * MS if c.driver == "POLICY" else 2000 * MS)
        assert not is_known[c.due_ns >= end_ns].any()
        assert is_known[c.due_ns < end_ns - 50 * MS].all()


def test_a_bag_that_does_not_say_who_drove_is_replayed_from_its_start(tmp_path):
    found = replay(tmp_path, sensors(1), commands(1), task())
    assert {c.driver for c in found.chunks} == {""} and found.chunks[0].asked_ns < START_NS + 200 * MS


def test_episodes_begin_with_their_instruction(tmp_path):
    found = replay(tmp_path, sensors(2), commands(2), task(0.0, "red"), task(1.0, "blue"), mode(0.1, "POLICY"))
    assert [(e.label, e.start_ns - START_NS) for e in found.episodes] == [("red", 0), ("blue", S)]
    assert {c.episode for c in found.chunks if c.header_ns < START_NS + S} == {0}
    assert {c.episode for c in found.chunks if c.header_ns >= START_NS + S} == {1}


def test_a_task_that_nobody_published_is_taken_from_the_traces(tmp_path):
    traces = [trace(at, at, (0.0, 0.0), at + 0.06, at + 0.09) for at in (0.4, 0.6, 0.8)]
    found = replay(tmp_path, sensors(2), commands(2), mode(0.1, "POLICY"), traces, settings=ReplaySettings())
    assert [stretch.label for stretch in found.episodes] == ["touch"]
    assert [chunk.header_ns - START_NS for chunk in found.chunks] == [600 * MS, 800 * MS]


def test_a_bag_without_any_task_is_one_episode_without_a_name(tmp_path):
    found = replay(tmp_path, sensors(2), commands(2), mode(0.1, "POLICY"))
    assert [(stretch.start_ns, stretch.label) for stretch in found.episodes] == [(START_NS, "")]
    assert not found.chunks and any("'/vla_policy/task' is not in the bag" in line for line in found.problems)


def test_an_instruction_that_is_repeated_goes_on_with_its_episode(tmp_path):
    tasks = [task(0.0, "red"), task(0.5, "red"), task(1.0, "blue"), task(1.5, "blue"), task(1.8, "red")]
    found = replay(tmp_path, sensors(2), commands(2), tasks, mode(0.1, "POLICY"))
    assert [(e.label, e.start_ns - START_NS) for e in found.episodes] == [
        ("red", 0), ("blue", 1000 * MS), ("red", 1800 * MS),
    ]  # fmt: skip


def test_a_silent_camera_stops_the_policy_and_it_goes_on_afterwards(tmp_path):
    found = replay(tmp_path, sensors(3, gap_s=(1.0, 1.8)), commands(3), task(), mode(0.1, "POLICY"))
    stops = [event for event in found.events if event.kind == "watchdog"]
    assert len(stops) == 1 and "camera 'front' is 0.3" in stops[0].line
    assert 1200 * MS < stops[0].time_ns - START_NS < 1400 * MS
    assert any(c.asked_ns > START_NS + 1900 * MS for c in found.chunks)


def test_answers_come_when_the_recorded_ones_came(tmp_path):
    recorded = [chunk(at - 0.17, at) for at in (0.4, 0.63, 0.9, 1.31)]
    settings = ReplaySettings(latency_ms=None)
    found = replay(tmp_path, sensors(2), commands(2), task(), mode(0.1, "POLICY"), recorded, settings=settings)
    assert [round((c.arrived_ns - START_NS) / MS) for c in found.chunks] == [400, 630, 900, 1310]


def test_the_very_observations_of_the_recorded_requests_are_asked_about_again(tmp_path):
    traces = [trace(0.35, 0.3, (0.11, 0.12), 0.36, 0.47), trace(0.6, 0.6, (0.2, 0.3), 0.61, 0.7)]
    settings = ReplaySettings(latency_ms=None)
    parts = sensors(1), commands(1), task(), mode(0.1, "POLICY"), traces
    policy = swing_policy()
    found = replay_bag(write_bag(tmp_path / "bag", *parts), ROBOT, policy, settings)
    assert [c.header_ns - START_NS for c in found.chunks] == [300 * MS, 600 * MS]
    assert [(c.asked_ns - START_NS, c.arrived_ns - START_NS) for c in found.chunks] == [
        (360 * MS, 470 * MS), (610 * MS, 700 * MS),
    ]  # fmt: skip
    first = policy.processor.asked[0]
    assert first.joint_positions.tolist() == [0.11, 0.12]
    assert first.images["front"].max() == 7 and first.images["wrist"].max() == 6  # the frames of 0.35 and 0.3 s


def test_a_trace_whose_image_the_bag_lacks_is_told(tmp_path):
    settings = ReplaySettings(latency_ms=None)
    lost = trace(0.355, 0.3, (0.0, 0.0), 0.36, 0.47)
    found = replay(tmp_path, sensors(1), commands(1), task(), mode(0.1, "POLICY"), lost, settings=settings)
    assert not found.chunks
    assert [event.line for event in found.events if event.kind == "processor"] == [
        "observation: the bag lacks the image of camera 'front' that a chunk was made of"
    ]


def test_without_recorded_chunks_a_latency_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="no chunks on '/vla_policy/chunk' to take the latency from.*--latency MS"):
        replay(tmp_path, sensors(1), commands(1), task(), settings=ReplaySettings(latency_ms=None))


def test_without_recorded_chunks_a_latency_may_be_assumed_and_is_told(tmp_path):
    settings = ReplaySettings(latency_ms=None, unknown_latency_ms=70.0)
    found = replay(tmp_path, sensors(1), commands(1), task(), settings=settings)
    assert {c.arrived_ns - c.asked_ns for c in found.chunks} == {70 * MS}
    assert "each answer was assumed to take 70 ms" in found.problems[0]


def test_a_bag_of_nothing_of_the_robot_is_unusable(tmp_path):
    with pytest.raises(UnusableBag, match="nothing of it can be used"):
        replay(tmp_path)


def test_a_gap_behind_a_message_at_0_is_skipped_and_told(tmp_path):
    at_0 = [replace(said, time_ns=0) for said in (task(), mode(0.0, "POLICY"))]
    with counted_ticks() as ticks:
        found = replay(tmp_path, at_0, sensors(2), commands(2))
    assert len(ticks) < 15 * S / COMMAND_NS
    (line,) = found.problems
    assert "nothing of the robot was recorded for 1000.0 s after 0.000 s; the gap is skipped" in line
    assert len(found.chunks) > 20, "the policy drives behind it"


@pytest.mark.parametrize("driver", ["POLICY", "TELEOP"])
def test_nothing_drives_across_a_gap_and_it_goes_on_behind_it(tmp_path, driver):
    parts = (sensors(40), commands(40), teleop(40) if driver == "TELEOP" else ())
    kept = [said for said in chain(*parts) if not 2 * S <= said.time_ns - START_NS < 38 * S]
    with counted_ticks() as ticks:
        found = replay(tmp_path, kept, task(), mode(0.1, driver))
    assert len(ticks) < 16 * S / COMMAND_NS
    assert any("recorded for 36.0 s after 1001.990 s" in line for line in found.problems)
    assert found.end_ns - found.start_ns > 39 * S, "the gap stays in the times"
    if driver == "POLICY":
        assert max(chunk.header_ns for chunk in found.chunks) > START_NS + 39 * S
    times_ns, values = found.commands.times_ns, found.commands.values
    gap = int(np.argmax(np.diff(times_ns)))
    assert times_ns[gap + 1] - times_ns[gap] > 20 * S and (times_ns[gap + 1] - times_ns[gap]) % COMMAND_NS == 0
    assert np.abs(values[gap + 1] - values[gap]).max() < 2e-3, "it starts from rest where it stopped"


def test_both_of_two_leaders_are_followed_in_a_replay(tmp_path: Path) -> None:
    leaders = [TeleopConfig("joint_states", f"{name}/joint_states", (name,), {"j": name}) for name in ROBOT.joint_names]
    robot = replace(ROBOT, teleop=tuple(leaders))
    time_of, kind = message_type("builtin_interfaces/msg/Time"), message_type("sensor_msgs/msg/JointState")
    said = list(sensors(2))
    for leader, target in zip(leaders, (0.1, -0.1), strict=True):
        for time_ns in range(START_NS, START_NS + 2 * S, 20 * MS):
            header = message_type("std_msgs/msg/Header")(time_of(*divmod(time_ns, S)), "")
            message = kind(header, ["j"], np.array([target]), np.zeros(0), np.zeros(0))
            said.append(Said(f"/{leader.topic}", time_ns, message))
    bag = write_bag(tmp_path / "bag", said, commands(2), task(), mode(0.1, "TELEOP"))
    found = replay_bag(bag, robot, swing_policy(), FIXED)
    np.testing.assert_allclose(found.commands.values[-1], [0.1, -0.1], atol=1e-3)


def test_a_pause_that_watchdogs_need_is_ticked_through(tmp_path):
    kept = [said for said in chain(sensors(11), commands(11)) if not S <= said.time_ns - START_NS < 10 * S]
    found = replay(tmp_path, task(), mode(0.0, "HOLD"), kept)
    assert not any("gap" in line for line in found.problems)
    assert np.diff(found.commands.times_ns).max() < 2 * COMMAND_NS


def test_a_policy_that_fails_is_told_and_does_not_end_the_replay(tmp_path):
    def fail(request: Any) -> np.ndarray:
        raise ValueError("no such expert")

    found = replay(tmp_path, sensors(1), commands(1), task(), mode(0.1, "POLICY"), infer=fail)
    assert not found.chunks and any("no such expert" in event.line for event in found.events)
    assert found.end_ns - found.start_ns > 900 * MS


def test_no_image_outlives_its_answer(tmp_path):
    """But for the newest, which are seen or compared with."""
    seen: list[weakref.ref[np.ndarray]] = []
    num_alive: list[int] = []

    class Watching(SwingProcessor):
        def process(self, observation: Observation, continuation: Continuation | None = None) -> PiRequest:
            seen.extend(weakref.ref(image) for image in observation.images.values())
            num_alive.append(sum(image() is not None for image in seen))
            request = super().process(observation, continuation)
            self.asked.clear()
            return request

    bag = write_bag(tmp_path / "bag", sensors(10), commands(10), task(), mode(0.1, "POLICY"))
    policy = replace(swing_policy(), processor=Watching())
    found = replay_bag(bag, ROBOT, policy, FIXED)
    assert len(found.chunks) > 100 and len(seen) > 200
    assert max(num_alive) <= 2 * (NUM_FRAMES + MAX_OUTSTANDING + 1)


def test_every_command_that_a_limit_bounds_is_counted(tmp_path):
    # As the policy begins to drive, it wants to be elsewhere: one long stretch of full acceleration, then of speed.
    found = replay(tmp_path, sensors(2), commands(2), task(), mode(0.0, "HOLD"), mode(0.5, "POLICY"), offset=0.5)
    limits = [event for event in found.events if event.kind == "limit"]
    assert limits and {event.joint for event in limits} <= set(ROBOT.joint_names)
    assert max(event.num_times for event in limits) > 5
    summary = summarize([found])
    assert summary.num_incidents["limit"] == sum(event.num_times for event in limits) > len(limits)
    assert summary.num_incidents["limit"] <= len(found.commands)


def test_the_same_bag_gives_the_same_replay(tmp_path):
    parts = list(sensors(1)), list(commands(1)), task(), mode(0.1, "POLICY")
    bag = write_bag(tmp_path / "bag", *parts)
    one, other = (replay_bag(bag, ROBOT, swing_policy(), FIXED) for _ in range(2))
    assert one.commands.values.tolist() == other.commands.values.tolist()
    assert [c.positions.tolist() for c in one.chunks] == [c.positions.tolist() for c in other.chunks]


def test_joints_that_come_in_two_messages_on_one_topic_are_one_series_of_measurements() -> None:
    recording = Recording(ROBOT, 0, "")
    for i in range(4):
        recording.measure(JointSample(i * 10 * MS, np.array([i * 0.1, np.nan]), np.zeros(2)))
    for ms in (5, 25, 15):
        recording.measure(JointSample(ms * MS, np.array([np.nan, ms * 0.01]), np.zeros(2)))
    joints = recording.finish(30 * MS).joints
    assert joints.times_ns.tolist() == [0, 10 * MS, 20 * MS, 30 * MS]
    expected = [[0.0, np.nan], [0.1, 0.1], [0.2, 0.2], [0.3, np.nan]]
    np.testing.assert_allclose(joints.values, expected, err_msg="what came late is left out")


def test_a_fixed_joint_is_measured_in_a_replay_and_nothing_is_compared_of_its_commands(tmp_path: Path) -> None:
    shoulder, elbow = ROBOT.joints
    arm, hand = (JointStateConfig(joints=(name,)) for name in ROBOT.joint_names)
    robot = replace(
        ROBOT,
        joints=(shoulder, replace(elbow, fixed=True)),
        outputs=(OutputConfig("arm", ("shoulder",)),),
        joint_states=(arm, hand),
    )
    said = list(commands(2.0))
    for item in said:
        item.message.joint_names, points = ["shoulder"], item.message.points
        points[0].positions = points[0].positions[:1]
    bag = write_bag(tmp_path / "bag", task(), mode(0.2, "POLICY"), sensors(2.0), said)
    replay = replay_bag(bag, robot, swing_policy(), ReplaySettings(latency_ms=20.0))
    assert replay.chunks and not replay.problems and replay.joints.values.shape[1] == 2
    errors = summarize((replay,), "any").commanded
    assert errors.overall < 1e-3 and errors.by_joint[0] < 1e-3 and np.isnan(errors.by_joint[1])
