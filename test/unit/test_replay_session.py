"""A whole replay session: what it refuses, what it goes on without, and what its page says of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from replay_helpers import JPEG_ROBOT, chunk, commands, jpeg, mode, sensors, swing_policy, task, write_bag
from runtime_helpers import ROBOT

from vla_ros.replay import assert_matches
from vla_ros.replay.baseline.record import read_baseline
from vla_ros.replay.judge.verdict import NO_BASELINE
from vla_ros.replay.report.page import moment_images, render_report, write_report
from vla_ros.replay.session import ReplaySession, SessionConfig, replay_session
from vla_ros.replay.settings import ReplaySettings, from_stored

FIXED = ReplaySettings(latency_ms=30.0)
ASSUMED = ReplaySettings(latency_ms=None, unknown_latency_ms=100.0)


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is its folder's name: how far it is off."""
    monkeypatch.setattr(
        "vla_ros.replay.session.load_replay_policy",
        lambda name, path, device: replace(swing_policy(float(path.name)), name=name),
    )


def good_bag(folder: Path, name: str = "good", *more: Any) -> Path:
    return write_bag(folder / name, sensors(2), commands(2), task(), mode(0.1, "TELEOP"), *more)


def session(
    folder: Path, *bags: Path, settings: ReplaySettings = FIXED, offsets: tuple[str, ...] = ("0.1",)
) -> ReplaySession:
    for offset in offsets:
        (folder / offset).mkdir()
    return replay_session(SessionConfig(bags, tuple(folder / offset for offset in offsets), ROBOT, settings))


def broken_bag(folder: Path) -> Path:
    """Cut off inside the header of its file."""
    bag = write_bag(folder / "broken", sensors(1), task())
    (path,) = bag.glob("*.mcap")
    path.write_bytes(path.read_bytes()[:30])
    (bag / "metadata.yaml").unlink()
    return bag


def test_one_broken_bag_does_not_end_the_session(tmp_path):
    found = session(tmp_path, good_bag(tmp_path), broken_bag(tmp_path), tmp_path / "nowhere")
    assert len(found.replays[0]) == 1 and found.summaries[0].num_chunks > 10
    assert [name in line for name, line in zip(("broken", "nowhere"), found.unused, strict=True)] == [True, True]
    document = found.document(*found.judge(None))
    assert [line for line in found.unused if line not in document["problems"]] == []
    page = render_report(found, found.judge(None)[0], {})
    assert [line for line in found.unused if str(escape(line)) not in page] == []


def test_a_session_of_broken_bags_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="broken") as error:
        session(tmp_path, broken_bag(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "gpu"}, "--device is 'gpu'; expected auto, cpu, or cuda"),
        ({"device": "cuda:99"}, "--device is 'cuda:99'; expected auto, cpu, or cuda"),
        ({"device": ""}, "--device is ''; expected auto, cpu, or cuda"),
        ({"num_threads": 0}, "--threads is 0; expected at least 1"),
        ({"num_threads": -2}, "--threads is -2; expected at least 1"),
    ],
)
def test_a_device_that_is_not_there_and_no_thread_are_refused_in_one_line(tmp_path, settings, said):
    with pytest.raises(ValueError) as error:
        replay_session(SessionConfig((tmp_path,), (tmp_path,), ROBOT, FIXED, **settings))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_without_a_gpu_cuda_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match="torch sees a GPU"):
        replay_session(SessionConfig((tmp_path,), (tmp_path,), ROBOT, FIXED, device="cuda"))


def test_a_baseline_that_is_written_anew_is_nothing_to_judge_by_and_says_so(tmp_path):
    found = session(tmp_path, good_bag(tmp_path))
    path = tmp_path / "baseline.json"
    found.write_baseline(path)
    verdict, differences = found.judge(None, renewed=str(path))
    assert verdict.word == NO_BASELINE and not differences
    assert str(path) in verdict.reasons[0] and "give --baseline" not in " ".join(verdict.reasons)
    assert found.judge(read_baseline(path))[0].word == "pass"


def test_a_baseline_that_lacks_a_setting_is_named_with_it(tmp_path):
    found = session(tmp_path, good_bag(tmp_path))
    path = tmp_path / "baseline.json"
    found.write_baseline(path)
    path.write_text("".join(line for line in path.open() if '"handoff_ramp_s"' not in line))
    with pytest.raises(ValueError, match="setting 'handoff_ramp_s' is missing") as error:
        assert_matches(tmp_path / "good", "tiny_touch", path)
    assert str(path) in str(error.value) and "--update-baseline" in str(error.value) and "\n" not in str(error.value)


def test_settings_are_those_a_baseline_was_made_with(tmp_path):
    found = session(tmp_path, good_bag(tmp_path), settings=ASSUMED)
    assert from_stored(found.origin.settings) == ASSUMED


@pytest.mark.parametrize(
    ("settings", "recorded", "said"),
    [
        (FIXED, (False,), "30 ms"),
        (ASSUMED, (True,), "as recorded"),
        (ASSUMED, (False,), "100 ms, assumed"),
        (ASSUMED, (True, False), "as recorded or 100 ms, assumed"),
    ],
)
def test_the_page_says_where_the_latency_is_from(tmp_path, settings, recorded, said):
    answers = [chunk(at - 0.17, at) for at in np.arange(0.4, 1.9, 0.2)]
    bags = [good_bag(tmp_path, f"bag{i}", *([answers] if has else [])) for i, has in enumerate(recorded)]
    found = session(tmp_path, *bags, settings=settings)
    page = render_report(found, found.judge(None)[0], {})
    assert f"<dt>latency</dt><dd>{said}</dd>" in page


def test_the_page_does_without_an_image_that_cannot_be_decoded(tmp_path, monkeypatch):
    policy = swing_policy(0.1, cameras=("wrist",))
    monkeypatch.setattr("vla_ros.replay.session.load_replay_policy", lambda *_: policy)
    seen = [jpeg(item, is_damaged=True) if item.topic == "/front/image" else item for item in sensors(2)]
    bag = write_bag(tmp_path / "bag", seen, commands(2), task(), mode(0.1, "TELEOP"))
    found = replay_session(SessionConfig((bag,), (tmp_path,), JPEG_ROBOT, FIXED))
    assert {frame.camera for frames in moment_images(found).values() for frame in frames} == {"wrist"}
    write_report(found, found.judge(None)[0], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<img alt="wrist, ' in page and '<img alt="front, ' not in page


def test_the_page_calls_differences_by_words_and_knows_that_joints_may_slide(tmp_path):
    found = session(tmp_path, good_bag(tmp_path), offsets=("0.1", "0.2"))
    page = " ".join(render_report(found, found.judge(None)[0], {}).split())
    rows = re.findall(r'<th scope="row">(\w+, off from [^<]+)</th> <td [^>]+>[^<]+<span class="unit">([^<]+)<', page)
    assert rows == [
        ("Chunks, off from what the robot was commanded", "%"),
        ("shoulder, off from what the robot was commanded", "rad or m"),
        ("elbow, off from what the robot was commanded", "rad or m"),
        ("Chunks, off from where the robot then went", "%"),
        ("shoulder, off from where the robot then went", "rad or m"),
        ("elbow, off from where the robot then went", "rad or m"),
    ]
    assert "mae" not in page
