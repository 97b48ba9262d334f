"""Replays of LeRobot data sets: each episode is a recording of its own, alone and in a fleet."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("av")
from fleet_helpers import SETTINGS, fill, results_of  # noqa: E402
from lerobot_set_helpers import edit_info, set_value  # noqa: E402
from replay_helpers import START_NS, commanded, swing_policy  # noqa: E402
from runtime_helpers import MS, ROBOT, S  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.recordings.lerobot.write import EpisodeRows, SetLayout, SetWriter  # noqa: E402
from vla_ros.replay.episodes import recordings_in  # noqa: E402
from vla_ros.replay.fleet import plan as plan_module  # noqa: E402
from vla_ros.replay.fleet.folder import ResultsFolder  # noqa: E402
from vla_ros.replay.fleet.run import Shard  # noqa: E402
from vla_ros.replay.report.page import moment_images, render_report  # noqa: E402
from vla_ros.replay.run import UnusableBag, replay_bag  # noqa: E402
from vla_ros.replay.session import ReplaySession, SessionConfig, replay_session  # noqa: E402
from vla_ros.replay.settings import ReplaySettings  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402

LARGE = replace(ROBOT, cameras=tuple(replace(camera, width=16, height=16) for camera in ROBOT.cameras))
FPS, NUM_ROWS = 20, 40


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is its folder's name: how far it is off."""
    for module in ("vla_ros.replay.session", "vla_ros.replay.fleet.worker"):
        monkeypatch.setattr(
            f"{module}.load_replay_policy",
            lambda name, path, device: replace(swing_policy(float(path.name)), name=name),
        )


@pytest.fixture
def swings(tmp_path: Path) -> Path:
    """Two episodes of 2 s, an hour apart: nobody says who drove in the first, a human did in the second."""
    names, cameras = ("shoulder.pos", "elbow.pos"), {"front": (16, 16), "wrist": (16, 16)}
    writer = SetWriter(tmp_path / "swings", SetLayout("two_joints", FPS, names, names, cameras, "h264", {}))
    for episode, driver in enumerate(("", "TELEOP")):
        drawn = writer.begin()
        for row in range(NUM_ROWS):
            drawn.add(dict.fromkeys(cameras, np.full((16, 16, 3), 5 * row, np.uint8)))
        stamps_ns = START_NS + 3600 * S * episode + np.arange(NUM_ROWS) * 50 * MS
        actions = np.array([commanded(at_ns) for at_ns in stamps_ns.tolist()])
        rows = EpisodeRows(
            states=actions + 0.01,
            actions=actions,
            tasks=["touch the red block"] * NUM_ROWS,
            drivers=[driver] * NUM_ROWS,
            interventions=[False] * NUM_ROWS,
            stamps_ns=stamps_ns[:, None].repeat(3, 1),
        )
        writer.add(drawn, rows, "success", "made", episode)
    writer.finish()
    return tmp_path / "swings"


def report_of(session: ReplaySession) -> tuple[str, str]:
    verdict, differences = session.judge(None)
    page = render_report(session, verdict, moment_images(session))
    return page, json.dumps(session.document(verdict, differences))


def test_each_episode_is_judged_by_its_rows(swings: Path) -> None:
    first, second = (replay_bag(path, LARGE, swing_policy(0.1), SETTINGS) for path in recordings_in(swings))
    assert [Path(one.bag).name for one in (first, second)] == ["swings.episode_0", "swings.episode_1"]
    for one, driver in ((first, ""), (second, "TELEOP")):
        assert len(one.chunks) > 5 and one.assumed_latency_ms == 100.0 and not one.problems
        assert {chunk.driver for chunk in one.chunks} == {driver}
        off = np.concatenate([chunk.positions - chunk.commanded for chunk in one.chunks])
        np.testing.assert_allclose(off[np.isfinite(off)], 0.1, atol=2e-3)  # rows are 50 ms apart, and a swing is curved
    assert [event.line for event in second.events if event.kind == "watchdog"] == []
    assert second.start_ns - first.start_ns == 3600 * S


def test_merged_shards_of_episodes_give_the_report_of_one_replay_byte_for_byte(swings: Path, tmp_path: Path) -> None:
    episodes = recordings_in(swings)
    reports = [fill(results_of(tmp_path, episodes, robot=LARGE), Shard(i, 2)) for i in (1, 2)]
    assert [(report.replayed, report.refused) for report in reports] == [(1, 0), (1, 0)]
    config = SessionConfig(episodes, (Path("0.1"),), load_robot(tmp_path / "robot.yaml"), SETTINGS)
    merged = ResultsFolder.find(tmp_path / "results").merge("any")
    assert report_of(merged) == report_of(replay_session(config))
    assert all(moment_images(merged).values())
    again = fill(results_of(tmp_path, episodes, robot=LARGE))
    assert (again.replayed, again.there) == (0, 2)


def test_an_episode_whose_set_changed_is_replayed_again_and_one_that_is_damaged_is_named(
    swings: Path, tmp_path: Path
) -> None:
    episodes = recordings_in(swings)
    fill(results_of(tmp_path, episodes, robot=LARGE))
    for file in swings.rglob("*.parquet"):
        os.utime(file, (1, 1))
    assert fill(results_of(tmp_path, episodes, robot=LARGE)).there == 2
    set_value("data", "action", 7, lambda row: [math.nan, row[1]])(swings)
    report = fill(results_of(tmp_path, episodes, robot=LARGE))
    assert (report.replayed, report.refused, report.there) == (1, 1, 1)
    with pytest.raises(UnusableBag, match=r"action is nan for shoulder\.pos in frame 7"):
        replay_bag(episodes[0], LARGE, swing_policy(0.1), SETTINGS)


def test_what_can_not_be_replayed_of_a_set_is_refused(swings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recordings_in(swings)[0]
    with pytest.raises(ValueError, match=r"episode_0 has no chunks to take the latency from; give one: --latency MS"):
        replay_bag(path, LARGE, swing_policy(), ReplaySettings())
    with pytest.raises(UnusableBag, match=r"swings has no episode 7; expected one of meta/episodes"):
        replay_bag(swings / "swings.episode_7", LARGE, swing_policy(), SETTINGS)
    with pytest.raises(UnusableBag, match=r"--camera is 'front'; expected FEATURE=NAME"):
        replay_bag(path, LARGE, swing_policy(), replace(SETTINGS, set_cameras="front"))
    edit_info(lambda info: info.update(fps=1))(swings)
    with pytest.raises(UnusableBag, match=r"has 1 rows a second; expected at least 3: between them nothing is known"):
        replay_bag(path, LARGE, swing_policy(), SETTINGS)
    edit_info(lambda info: info.update(codebase_version="v2.1"))(swings)
    assert main(["replay", str(swings)]) == 2
    assert main(["replay", "--merge", str(swings), "--data-space", "droid"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "convert_dataset_v21_to_v30" in first and "--data-space with --merge" in second


def test_a_result_is_of_the_release_and_the_space_it_was_made_with(
    swings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.yaml"
    joints = "[{type: joints, joints: [shoulder, elbow]}]"
    space.write_text(f"state: {joints}\naction: {joints}\n")
    settings = replace(SETTINGS, set_space=str(space), set_cameras="front=front")
    plans = [results_of(tmp_path, [swings], settings=one).run.plan for one in (SETTINGS, settings)]
    space.write_text(f"state: {joints}\naction: {joints}\n# another\n")
    plans.append(results_of(tmp_path, [swings], settings=settings).run.plan)
    plans.append(replace(plans[0], release="99.0"))
    assert len({plan.key for plan in plans}) == 4
    assert not {"set_space", "set_cameras"} & plans[0].values.keys()
    monkeypatch.setattr(plan_module, "version", lambda name: "98.0")
    old = results_of(tmp_path, recordings_in(swings), robot=LARGE)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"is installed here; expected 98.0, which planned the replay"):
        fill(old)
