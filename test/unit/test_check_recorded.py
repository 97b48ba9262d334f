"""`vla_ros check DATA --robot FILE`: bags and LeRobot data sets, and the page of what is wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replay_helpers import Said, commands, sensors, task, trajectory, write_bag
from runtime_helpers import ROBOT

from vla_ros import topics
from vla_ros.bags.read import BagReader
from vla_ros.bags.write import BagWriter
from vla_ros.check.finding import Finding, Level, page
from vla_ros.check.recorded.judge import TrainingNeeds, judge_recordings
from vla_ros.check.recorded.read import look_at
from vla_ros.check.recorded.seen import RecordingSeen
from vla_ros.cli import main
from vla_ros.training.episodes import FrameRule

GOLDEN = Path(__file__).parents[1] / "data" / "tabletop_touch"
NEEDS = TrainingNeeds("some", ROBOT.camera_names, horizon=5, chunk_dt_s=0.1)
RULE = FrameRule(5, 0.1, 1.0, lambda image: image)


def findings_of(*seen: RecordingSeen) -> dict[str, Finding]:
    """By subject, the worst of each; what is OK is left out."""
    found = [one for one in judge_recordings(ROBOT, NEEDS, seen) if one.level is not Level.OK]
    return {one.subject: one for one in sorted(found, key=lambda one: one.level is Level.FAIL)}


def bag(folder: Path, *parts: object) -> RecordingSeen:
    return look_at(write_bag(folder, *parts), ROBOT, RULE)


def checked(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, list[dict[str, str]]]:
    """Exit code, the page, and what ``--json`` has of what isn't OK."""
    values = folder / "found.json"
    code = main(["check", *arguments, "--json", str(values)])
    findings = json.loads(values.read_text())["findings"]
    return code, capsys.readouterr().out, [one for one in findings if one["level"] != "OK"]


def without(topic: str, folder: Path) -> Path:
    """The golden bag without a topic: without the mode, who drove isn't known, as in a demonstration by a script."""
    with BagWriter(folder) as bag:
        known: set[str] = set()
        for message in BagReader(GOLDEN).messages():
            if message.topic.lstrip("/") == topic:
                continue
            if message.topic not in known:
                known.add(message.topic)
                bag.add_topic(message.topic, message.channel.msgtype)
            bag.write(message.topic, message.data, message.stamp_ns)
    return folder


def test_a_good_bag_fits_and_its_page_says_what_was_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = without(topics.MODE.name, tmp_path / "demonstration")
    code, text, found = checked(capsys, tmp_path, str(good), "--robot", "tabletop", "--policy", "tiny_touch")
    assert code == 0 and text.splitlines()[-1].startswith("fits, with warnings: 0 FAIL")
    for part in ("joints", "joint states", "camera front", "camera top", "output arm", "samples", "policy tiny_touch"):
        assert f"\n\n{part}\n" in text
    assert "'move to the green cube' (1)" in text and "20.0 Hz" in text
    subjects = {one["subject"] for one in found}
    assert subjects - {"samples: left out"} == {"joints: gripper", "episodes: number"}


def test_a_bag_that_a_policy_drove_teaches_nothing_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, found = checked(capsys, tmp_path, str(GOLDEN), "--robot", "tabletop", "--policy", "tiny_touch")
    assert code == 1 and "none of 90 frames" in text and " of which learn_from.policy is 0" in text
    assert [one["subject"] for one in found if one["level"] == "FAIL"] == ["samples: learned"]


def test_what_training_learns_of_a_bag_is_what_the_page_counts(tmp_path: Path) -> None:
    seen = bag(tmp_path / "bag", sensors(3.0), commands(3.0), task())
    assert sum(seen.num_samples) + seen.num_left_out.total() == 60
    found = findings_of(seen)
    assert found.keys() - {"samples: left out"} == {"episodes: number"}
    assert found["episodes: number"].got.startswith("1 with samples, ") and not any(
        one.level is Level.FAIL for one in found.values()
    )


def changed(parts: Iterable[Said], change: Callable[[np.ndarray], np.ndarray]) -> Iterable[Said]:
    """Commands, of which ``change`` makes others."""
    for said in parts:
        rows = [change(np.array(point.positions)) for point in said.message.points]
        yield replace(said, message=trajectory(0, [20_000_000], rows))


@pytest.mark.parametrize(
    ("change", "level", "got", "fix"),
    [
        (np.rad2deg, Level.FAIL, "commanded 0.34 to 17.19", "these look like degrees"),
        (lambda row: row * [-1, 1], Level.FAIL, "it goes against its commands", "its sign"),
        (lambda row: row * [0, 1], Level.FAIL, "it moves and its commands don't", "which topic the commands are on"),
        (lambda row: row * [0.9, 1] + [0.9, 0], Level.WARN, "apart on average", "zero and unit"),
        (lambda row: np.where(row > 0.295, 1.1, row), Level.WARN, "; 0.10 beyond", "commands are bounded"),
    ],
)
def test_a_joints_commands_that_can_not_be_its_own_are_named(
    change: Callable[[np.ndarray], np.ndarray], level: Level, got: str, fix: str, tmp_path: Path
) -> None:
    seen = bag(tmp_path / "bag", sensors(3.0), changed(commands(3.0), change), task())
    finding = findings_of(seen)["joints: shoulder"]
    assert finding.level is level and got in finding.got and fix in finding.fix and finding.expected


def test_a_joint_that_never_moves_is_dead_where_it_is_commanded(tmp_path: Path) -> None:
    still = [said for said in sensors(3.0)]
    for said in still:
        if said.topic == "/joint_states":
            said.message.position[:] = 0.0
    dead = findings_of(bag(tmp_path / "dead", still, commands(3.0), task()))["joints: shoulder"]
    assert dead.level is Level.FAIL and "it is commanded and stands still" in dead.got
    idle = findings_of(bag(tmp_path / "idle", still, changed(commands(3.0), np.zeros_like), task()))
    assert idle["joints: shoulder"].level is Level.WARN and "it never moves" in idle["joints: shoulder"].got


def test_gaps_stamps_and_what_is_missing_are_named_with_the_bag(tmp_path: Path) -> None:
    said = list(sensors(3.0, gap_s=(1.0, 2.0)))
    whole = bag(tmp_path / "whole", sensors(3.0), commands(3.0), task())
    gap = bag(
        tmp_path / "gap", said, commands(3.0), task(1.0, "touch the red block"), task(2.0, "Touch the red block.")
    )
    blind = bag(tmp_path / "blind", (one for one in said if "front" not in one.topic), commands(3.0))
    found = findings_of(whole, gap, blind)
    front = found["camera front: rate"]
    assert "20.0 Hz" in front.got and "1 gaps" in front.got and front.expected.startswith("a message every 0.3 s")
    assert found["camera front: came"].got == "nothing in 1 of 3 bags"
    assert found["recordings: samples"].got == "none in blind"
    assert "differ in spelling alone" in found["episodes: tasks"].got
    problems = [one.got for one in judge_recordings(ROBOT, NEEDS, [whole, gap, blind]) if one.aspect == "problem"]
    assert any(text.startswith("blind: '/front/image' is not in the bag") for text in problems)
    one_second = replace(ROBOT, cameras=(replace(ROBOT.cameras[0], rate_hz=60.0), ROBOT.cameras[1]))
    slow = {one.subject: one for one in judge_recordings(one_second, NEEDS, [whole])}["camera front: rate"]
    assert slow.level is Level.WARN and slow.expected == "about 60 Hz (rate_hz in the robot file)"


def test_a_bag_that_can_not_be_read_fails_and_the_others_are_looked_at(tmp_path: Path) -> None:
    whole = bag(tmp_path / "whole", sensors(3.0), commands(3.0), task())
    (tmp_path / "empty").mkdir()
    found = findings_of(whole, look_at(tmp_path / "empty", ROBOT, RULE))
    assert found["recordings: refused"].got == "empty: it has neither an .mcap nor a .db3 file"
    assert found["recordings: refused"].level is Level.FAIL and "samples: learned" not in found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([str(GOLDEN)], "is no robot file; expected one, or recordings with --robot FILE"),
        ([], "nothing to check; expected one robot file, or recordings with --robot FILE"),
        (["a.yaml", "b.yaml"], "a.yaml, b.yaml to check; expected one robot file"),
        (["tabletop", "--space", "droid"], "--space without DATA; expected recordings"),
        ([str(GOLDEN), "--robot", "tabletop", "--seconds", "3"], "--seconds with recordings; expected a live robot"),
        (["nowhere", "--robot", "tabletop"], "nowhere does not exist; expected a rosbag2 bag"),
        ([str(GOLDEN.parent / "pi_parity"), "--robot", "tabletop"], "holds no recording; expected rosbag2 bags"),
        ([str(GOLDEN), "--robot", "tabletop", "--policy", "nobody"], "policy 'nobody' is neither a policy directory"),
    ],
)
def test_arguments_that_make_no_check_are_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_what_several_findings_ask_for_is_said_once() -> None:
    same = [Finding(Level.FAIL, "joints", name, "far", "near", "its zero") for name in ("one", "two")]
    lines = page("title", [*same, replace(same[0], fix="its unit")]).splitlines()
    assert [line.split()[0] for line in lines[3:8]] == ["FAIL", "FAIL", "expected", "fix", "FAIL"]


# LeRobot data sets.
pytest.importorskip("pyarrow")
pytest.importorskip("av")
from lerobot_set_helpers import (  # noqa: E402
    FRONT,
    SET,
    copy_of,
    cut,
    edit_info,
    lose_index,
    name_joints,
    set_value,
)

SO101 = ("--robot", "so101", "--policy", "tiny_touch")


def of_another_writer(folder: Path) -> Path:
    copied = copy_of(folder)
    (copied / "meta/vla_ros.json").unlink()
    return copied


def test_a_set_that_fits_is_read_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, found = checked(capsys, tmp_path, str(SET), *SO101)
    assert code == 0 and {one["subject"] for one in found} <= {"samples: left out"}
    assert "LeRobot v3, 10 rows a second; 3 episodes, 72 rows" in text and "2 success, 1 failure" in text


def test_all_that_is_wrong_with_a_set_is_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = of_another_writer(tmp_path)
    lose_index(folder)
    edit_info(lambda info: info["features"][FRONT].update(shape=[240, 320, 3]))(folder)
    set_value("data", "action", 7, lambda row: [*row[:2], math.nan, *row[3:]])(folder)
    cut("data/chunk-000/file-001.parquet")(folder)
    cut("videos/observation.images.wrist/chunk-000/file-002.mp4")(folder)
    code, text, found = checked(capsys, tmp_path, str(folder), *SO101)
    assert code == 1 and text.splitlines()[-1].startswith("does not fit: ")
    got = [(one["subject"], one["got"]) for one in found if one["level"] == "FAIL"]
    expected = [
        ("set set: tasks", "meta/tasks.parquet has columns task_index"),
        ("set set: cameras", "observation.images.front has 320x240 pixels"),
        ("set set: rows", "data/chunk-000/file-000.parquet: episode 0: action is nan for elbow_flex.pos in frame 7"),
        ("set set: rows", "data/chunk-000/file-001.parquet: damaged"),
        ("set set: videos", "videos/observation.images.wrist/chunk-000/file-002.mp4: "),
        *(("joints: " + name, "measured ") for name in ("shoulder_pan", "shoulder_lift", "elbow_flex")),
    ]
    for (subject, start), (of, line) in zip(expected, got, strict=False):
        assert subject == of and line.startswith(start)
    assert text.count("these look like degrees") == 1


@pytest.mark.parametrize(
    ("breaks", "subject", "got", "fix"),
    [
        (
            edit_info(lambda info: info.update(codebase_version="v2.1")),
            *("recordings: refused", "codebase_version is 'v2.1'", "convert_dataset_v21_to_v30"),
        ),
        (edit_info(lambda info: info.pop("fps")), "recordings: refused", "info.json: has no fps", ""),
        (
            name_joints("action", "shoulder_pan.pos", *(f"joint_{i}.pos" for i in range(5))),
            *("set set: joints", "action lacks shoulder_lift, ", "--space PRESET or FILE"),
        ),
    ],
)
def test_a_set_that_can_not_be_of_this_robot_fails(
    breaks: Callable[[Path], object],
    subject: str,
    got: str,
    fix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = of_another_writer(tmp_path)
    breaks(folder)
    code, _, found = checked(capsys, tmp_path, str(folder), *SO101)
    (finding,) = [one for one in found if one["level"] == "FAIL"]
    assert code == 1 and finding["subject"] == subject and got in finding["got"] and fix in finding["fix"]


def test_actions_that_are_taken_for_relative_and_are_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = of_another_writer(tmp_path)
    code, _, found = checked(capsys, tmp_path, str(folder), *SO101, "--data-space", "pi0_relative")
    assert code == 1
    assert any("action follows observation.state, and space pi0_relative" in one["got"] for one in found)
