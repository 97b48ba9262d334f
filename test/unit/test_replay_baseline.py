"""Golden replays: every change is caught, and called by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_helpers import (
    CAMERAS,
    JOINTS,
    MS,
    START_NS,
    S,
    chunk,
    differences,
    event,
    golden_replay,
    kinds,
    off_by,
    origin,
    replay,
    request,
    seen_as,
    stored_baseline,
    with_chunks,
)
from PIL import Image

from vla_ros.policies.pi.request import PiRequest
from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.against import compare_with_baseline
from vla_ros.replay.baseline.pairs import BAG, BEHAVIOUR, FILE, SETTING
from vla_ros.replay.baseline.provenance import Provenance, machine_name, provenance
from vla_ros.replay.baseline.record import (
    Baseline,
    Tolerances,
    make_baseline,
    read_baseline,
    stored_tolerances,
    write_baseline,
)
from vla_ros.replay.judge.verdict import FAIL, PASS, judge_by_baseline
from vla_ros.replay.records import Replay, ReplayedChunk
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig

FILTER = Image.Resampling
RETRAINED = {"policy.yaml": "a" * 64, "model.safetensors": "e" * 64}


@pytest.fixture(scope="module")
def golden() -> Replay:
    return golden_replay()


@pytest.fixture(scope="module")
def stored(golden: Replay, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """The golden replay, written and read again."""
    return stored_baseline(golden, tmp_path_factory.mktemp("baseline"))


def test_the_same_replay_is_as_the_baseline(golden: Replay, stored: Baseline) -> None:
    assert differences(golden, stored) == ()
    assert judge_by_baseline(()).word == PASS


def test_rounding_of_another_processor_is_tolerated(golden: Replay, stored: Baseline) -> None:
    rng = np.random.default_rng(0)

    def rounded(c: ReplayedChunk) -> ReplayedChunk:
        return replace(c, positions=c.positions + rng.uniform(-2e-7, 2e-7, c.positions.shape))

    def rounded_pixels(header_ns: int) -> PiRequest:
        given = request(header_ns)
        pixels = given.policy_input.pixel_values.astype(int)
        pixels += rng.integers(-1, 2, pixels.shape) * (rng.random(pixels.shape) < 0.3)
        pixels = pixels.clip(0, 255).astype(np.uint8)
        return replace(given, policy_input=replace(given.policy_input, pixel_values=pixels))

    assert differences(seen_as(with_chunks(golden, rounded), rounded_pixels), stored) == ()


def test_changed_weights_are_caught_by_what_they_do_and_by_their_file(golden: Replay, stored: Baseline) -> None:
    def moved(c: ReplayedChunk) -> ReplayedChunk:
        late = c.header_ns >= START_NS + 2 * S
        return replace(c, positions=c.positions + np.array([0.0, 1e-3, 0.0]) * late)

    found = differences(with_chunks(golden, moved), stored, origin(policy_files=RETRAINED))
    assert kinds(found) == [BEHAVIOUR, FILE]
    first = found[0]
    assert (first.bag, first.time_ns, first.joint) == ("monday", START_NS + 2 * S, "elbow")
    assert first.got - first.expected == pytest.approx(1e-3, abs=1e-6)
    assert "16 of 20 chunks" in first.line and "at 2.000 s" in first.line
    assert "model.safetensors" in found[1].line
    verdict = judge_by_baseline(found)
    assert "does changed" in verdict.reasons[0] and "files of the policy directory changed" in verdict.reasons[0]
    assert verdict.word == FAIL and verdict.reasons[1:] == tuple(difference.line for difference in found)


def test_a_change_too_small_for_any_one_action_is_caught_over_all_of_them(golden: Replay, stored: Baseline) -> None:
    (found,) = differences(off_by(golden, 0.0, 0.0, 5e-7), stored)
    assert found.kind == BEHAVIOUR and found.joint == "gripper" and "differs over all 20 chunks by RMS" in found.line


def test_changed_behaviour_of_the_same_files_points_to_the_code(golden: Replay, stored: Baseline) -> None:
    found = differences(off_by(golden, 1e-3, 0.0, 0.0), stored)
    assert kinds(found) == [BEHAVIOUR]
    assert "files of the policy directory are the same" in judge_by_baseline(found).reasons[0]


@pytest.mark.parametrize(
    "files, said",
    [
        (RETRAINED, "'model.safetensors' of the policy directory changed"),
        ({**origin().policy_files, "README.md": "d" * 64}, "'README.md' of the policy directory added"),
        ({"model.safetensors": "b" * 64}, "'policy.yaml' of the policy directory missing"),
    ],
)
def test_a_change_of_the_directory_without_effect_is_caught_by_its_digest(
    golden: Replay, stored: Baseline, files: dict[str, str], said: str
) -> None:
    found = differences(golden, stored, origin(policy_files=files))
    assert kinds(found) == [FILE] and said in found[0].line and "does exactly the same" in found[0].line
    assert "the policy sees and does the same" in judge_by_baseline(found).reasons[0]


def test_weights_that_change_the_last_bits_only_are_told_from_none_on_the_same_machine(
    golden: Replay, stored: Baseline
) -> None:
    def moved(c: ReplayedChunk) -> ReplayedChunk:
        return replace(c, positions=c.positions + 1e-9 * (c.header_ns >= START_NS + 2 * S))

    given = with_chunks(golden, moved)
    assert differences(given, stored) == ()
    found = differences(given, stored, origin(policy_files=RETRAINED))
    assert kinds(found) == [BEHAVIOUR, FILE] and "differs, by less than the tolerance" in found[0].line
    assert (found[0].bag, found[0].time_ns) == ("monday", START_NS + 2 * S)
    (found,) = differences(given, stored, origin(policy_files=RETRAINED, machine="another"))
    assert found.kind == FILE and "the policy sees and does the same, chunks to within" in found.line


def test_other_settings_and_another_robot_come_before_what_they_explain(golden: Replay, stored: Baseline) -> None:
    settings = {**origin().settings, "latency_ms": 120.0, "robot.joints.elbow.upper": 1.5}
    found = differences(off_by(golden, 1e-3, 0, 0), stored, origin(settings=settings))
    assert kinds(found) == [SETTING, SETTING, BEHAVIOUR]
    assert found[0].line == "setting: latency_ms: got 120.0, expected 80.0"
    assert "robot.joints.elbow.upper" in found[1].line


def test_other_bags_are_named(golden: Replay, stored: Baseline) -> None:
    (found,) = differences(golden, stored, origin(bags={"monday": "f" * 64}))
    assert found.kind == BAG and "another content" in found.line and found.bag == "monday"
    tuesday = replace(golden, bag="/data/tuesday")
    found = differences(tuesday, stored, origin(bags={"tuesday": "c" * 64}, policy_files=RETRAINED))
    assert [difference.bag for difference in found] == ["monday", "tuesday", ""]
    assert "no bag is the baseline's" in found[-1].line


def test_a_bag_is_known_by_its_name_wherever_it_lies(golden: Replay, stored: Baseline) -> None:
    assert differences(replace(golden, bag="elsewhere/monday"), stored) == ()


def test_a_robot_with_its_joints_in_another_order_is_compared_by_name(golden: Replay, stored: Baseline) -> None:
    order = [2, 0, 1]
    turned = with_chunks(golden, lambda c: replace(c, positions=c.positions[:, order]))
    commands = TimeSeries(golden.commands.times_ns, golden.commands.values[:, order])
    turned = replace(turned, joint_names=tuple(JOINTS[j] for j in order), commands=commands)
    (found,) = differences(turned, stored)
    assert found.line == "setting: joints: got gripper, base, elbow, expected base, elbow, gripper"


def test_chunks_of_other_observations_are_counted(golden: Replay, stored: Baseline) -> None:
    (found,) = differences(replace(golden, chunks=(*golden.chunks[:3], *golden.chunks[5:])), stored)
    assert found.time_ns == golden.chunks[3].header_ns and (found.got, found.expected) == (None, "a chunk")
    assert "2 fewer and 0 more" in found.line
    (found,) = differences(replace(golden, chunks=(*golden.chunks, chunk(START_NS + 10 * S))), stored)
    assert (found.got, found.expected) == ("a chunk", None)


def test_chunks_of_another_length_are_named(golden: Replay, stored: Baseline) -> None:
    (found,) = differences(with_chunks(golden, lambda c: replace(c, positions=c.positions[:3])), stored)
    assert (found.got, found.expected) == ("3 actions", "4 actions")


def test_other_commands_are_dated(golden: Replay, stored: Baseline) -> None:
    values = golden.commands.values.copy()
    values[100:, 2] -= 0.01
    (found,) = differences(replace(golden, commands=TimeSeries(golden.commands.times_ns, values)), stored)
    assert (found.time_ns, found.joint) == (START_NS + 2 * S, "gripper") and "400 of 500 commands" in found.line
    times_ns = golden.commands.times_ns
    (found,) = differences(replace(golden, commands=TimeSeries(times_ns[:-5], golden.commands.values[:-5])), stored)
    assert "5 commands are missing" in found.line and found.time_ns == times_ns[-5]


def test_limits_may_differ_by_a_few_and_watchdogs_may_not(golden: Replay, stored: Baseline) -> None:
    limit, watchdog = golden.events
    few, more = (event(6.0, "limit", joint="elbow", num_times=num) for num in (5, 6))
    assert differences(replace(golden, events=(limit, watchdog, few)), stored) == ()
    (found,) = differences(replace(golden, events=(limit, watchdog, more)), stored)
    assert (found.joint, found.got, found.expected) == ("elbow", "7", "1") and "commands a limit bounded" in found.line
    (found,) = differences(replace(golden, events=(limit,)), stored)
    assert found.got is None and "camera 'front' is stale" in str(found.expected)
    later = replace(watchdog, time_ns=watchdog.time_ns + 20 * MS)
    assert differences(replace(golden, events=(limit, later)), stored) == ()
    (found,) = differences(replace(golden, events=(limit, replace(watchdog, time_ns=watchdog.time_ns + S))), stored)
    assert found.time_ns == watchdog.time_ns


def test_tolerances_of_the_file_hold(golden: Replay, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, make_baseline([golden], origin()))
    document = json.loads(path.read_text())
    document["tolerances"] = {"position": 0.01, "position_rms": 0.01}
    path.write_text(json.dumps(document))
    baseline = read_baseline(path)
    assert differences(off_by(golden, 1e-3, 0, 0), baseline) == ()
    assert kinds(differences(off_by(golden, 0.02, 0, 0), baseline)) == [BEHAVIOUR]
    assert baseline.tolerances.command == Tolerances().command


def test_tolerances_survive_that_a_baseline_is_renewed(golden: Replay, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert stored_tolerances(path) == Tolerances()
    write_baseline(path, make_baseline([golden], origin(), Tolerances(command=0.1)))
    assert stored_tolerances(path) == Tolerances(command=0.1)
    path.write_text('{"format": "older", "tolerances": {"command": 0.2}}')
    assert stored_tolerances(path) == Tolerances(command=0.2)
    path.write_text("no JSON")
    assert stored_tolerances(path) == Tolerances()


def long_replay() -> Replay:
    """A minute: ten chunks a second of 16 actions, commands at 100 Hz, seven joints."""
    joints = tuple(f"joint_{j}" for j in range(7))
    rng = np.random.default_rng(0)
    first = chunk(START_NS)
    positions = rng.normal(size=(600, 16, 7))
    chunks = tuple(
        replace(first, header_ns=START_NS + k * S // 10 + 12_345, positions=positions[k]) for k in range(600)
    )
    times_ns = START_NS + np.arange(6000) * 10 * MS
    commands = TimeSeries(times_ns, rng.normal(size=(6000, 7)))
    return replay(chunks, joint_names=joints, joint_ranges=np.ones(7), commands=commands)


def test_a_baseline_of_a_minute_is_small_text_and_repeats(tmp_path: Path) -> None:
    baseline = make_baseline([long_replay()], origin())
    first, second = tmp_path / "first.json", tmp_path / "sub" / "second.json"
    write_baseline(first, baseline)
    write_baseline(second, read_baseline(first))
    assert first.stat().st_size < 1_000_000
    assert max(map(len, first.read_text().splitlines())) < 2_000
    write_baseline(second, baseline)
    assert first.read_bytes() == second.read_bytes()
    assert compare_with_baseline([long_replay()], origin(), read_baseline(first)) == ()


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda d: "", "not valid JSON"),
        (lambda d: "[]", "format is 'list'"),
        (lambda d: json.dumps({**d, "format": "vla_ros replay baseline 0"}), "baseline 0'; expected"),
        (lambda d: json.dumps({k: v for k, v in d.items() if k != "bags"}), "damaged (KeyError: 'bags')"),
        (lambda d: json.dumps({**d, "bags": [{**d["bags"][0], "chunks": [[0, 1, 2, 3]]}]}), "damaged (ValueError"),
        (lambda d: json.dumps({**d, "bags": [{**d["bags"][0], "commands": [["x", 1, 2, 3]]}]}), "damaged (ValueError"),
        (lambda d: json.dumps({**d, "bags": 7}), "damaged (TypeError"),
        (lambda d: json.dumps({**d, "tolerances": {"positions": 1.0}}), "unknown key 'positions'"),
        (lambda d: json.dumps({**d, "tolerances": {"position": -1.0}}), "expected 0 or more"),
    ],
)
def test_a_damaged_baseline_is_refused_in_one_line(
    golden: Replay, tmp_path: Path, damage: Callable[[dict[str, Any]], str], said: str
) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, make_baseline([golden], origin()))
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(ValueError) as error:
        read_baseline(path)
    assert said in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_baseline_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--update-baseline writes one"):
        read_baseline(tmp_path / "none.json")


ROBOT = RobotConfig(
    name="arm",
    control_rate_hz=50.0,
    joints=tuple(JointConfig(name, -1.0, 1.0, 1.5, 8.0) for name in JOINTS),
    cameras=tuple(CameraConfig(name, f"{name}/image", 64, 64, 0.3) for name in CAMERAS),
    outputs=(OutputConfig("arm", JOINTS),),
)


def test_a_baseline_too_large_to_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ros.replay.baseline.record.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="1 bags take .* MB; expected at most"):
        stored_baseline(golden_replay(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_origin_names_every_file_of_the_policy_and_every_value_of_the_robot(tmp_path: Path) -> None:
    policy, bag = tmp_path / "policy", tmp_path / "monday"
    (policy / "processor").mkdir(parents=True)
    (policy / ".cache").mkdir()
    bag.mkdir()
    for name in ("model.safetensors", "processor/tokenizer.json", ".cache/lock"):
        (policy / name).write_text(name)
    for name in ("monday_0.mcap", "monday_1.mcap", "notes.txt"):
        (bag / name).write_text(name)

    def found() -> Provenance:
        return provenance(policy, [bag], ROBOT, CAMERAS, {"strategy": "latest"}, machine_name("cpu", 2))

    first = found()
    assert "cpu" in first.machine and "2 threads" in first.machine and "torch" in first.machine
    assert list(first.policy_files) == ["model.safetensors", "processor/tokenizer.json"]
    assert first.settings["strategy"] == "latest" and first.settings["robot.joints.elbow.max_velocity"] == 1.5
    (bag / "notes.txt").write_text("other")
    assert found() == first
    (bag / "monday_1.mcap").write_text("other")
    assert found().bags != first.bags
    with pytest.raises(ValueError, match="two bags are called 'monday'"):
        provenance(policy, [bag, tmp_path / "x" / "monday"], ROBOT, CAMERAS, {}, "")
