"""A recorded episode of the demo, with a human's intervention, and what the packaged policy made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from vla_ros.cli import main
from vla_ros.replay import assert_matches
from vla_ros.share import policy_dir

DATA = Path(__file__).parents[1] / "data"
BAG, BASELINE = DATA / "tabletop_touch", DATA / "tabletop_touch.json"


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The packaged policy, to be changed."""
    return shutil.copytree(policy_dir("tiny_touch"), tmp_path / "tiny_touch")


def replay(policy: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    """The JSON and the text of a replay that differs from the baseline."""
    found = folder / "found.json"
    code = main(["replay", str(BAG), "--policy", str(policy), "--baseline", str(BASELINE), "--json", str(found)])
    document = json.loads(found.read_text())
    assert code == 1 and document["verdict"] == "fail"
    return document, capsys.readouterr().out


def test_the_packaged_policy_does_what_it_did() -> None:
    assert_matches(BAG, "tiny_touch", BASELINE)


def test_a_tensor_scaled_by_a_hundredth_is_caught_by_what_the_policy_does(
    changed: Path, tmp_path: Path, capsys
) -> None:
    weights = load_file(changed / "model.safetensors")
    weights["action_out_proj.weight"] *= 1.01
    save_file(weights, changed / "model.safetensors")
    document, text = replay(changed, tmp_path, capsys)
    first = document["baseline_differences"][0]
    assert first["kind"] == "behaviour" and first["bag"] == BAG.name and first["joint"] and first["time_s"] >= 0
    assert first["got"] != first["expected"]
    assert {difference["kind"] for difference in document["baseline_differences"]} == {"behaviour", "file"}
    assert "what the policy does changed" in text and "'model.safetensors' of the policy directory changed" in text


def test_another_file_without_effect_is_told_apart(changed: Path, tmp_path: Path, capsys) -> None:
    (changed / "README.md").write_text("Nothing of this drives a robot.\n")
    document, text = replay(changed, tmp_path, capsys)
    (difference,) = document["baseline_differences"]
    assert difference["kind"] == "file" and "README.md" in difference["what"]
    assert "the policy sees and does the same" in text


def test_another_resizing_is_caught_and_named(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    from vla_ros.policies.modules.vlm_bridge import processor

    def nearest(image, height, width, resampling):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)

    monkeypatch.setattr(processor, "resize", nearest)
    document, text = replay(policy_dir("tiny_touch"), tmp_path, capsys)
    assert document["baseline_differences"][0]["kind"] == "input"
    assert "camera 'front': fine detail changed" in text and "camera 'top': fine detail changed" in text
    assert "resize filter" in text


def test_swapped_cameras_are_caught_and_named(changed: Path, tmp_path: Path, capsys) -> None:
    document = yaml.safe_load((changed / "policy.yaml").read_text())
    document["data"]["camera_names"].reverse()
    (changed / "policy.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    found, text = replay(changed, tmp_path, capsys)
    inputs = [difference for difference in found["baseline_differences"] if difference["kind"] == "input"]
    assert inputs and inputs[0]["what"] == "cameras 'front' and 'top' are swapped"


def test_two_policies_are_told_apart_and_compared(changed: Path, tmp_path: Path) -> None:
    weights = load_file(changed / "model.safetensors")
    weights["action_out_proj.bias"] += 0.2
    save_file(weights, changed / "model.safetensors")
    found = tmp_path / "found.json"
    policies = ["--policy", "tiny_touch", "--policy", str(changed)]
    code = main(["replay", str(BAG), *policies, "--driver", "teleop", "--json", str(found), "--out", str(tmp_path)])
    document = json.loads(found.read_text())
    names = [policy["name"] for policy in document["policies"]]
    assert len(set(names)) == 2 and document["policies"][1]["mae"] > document["policies"][0]["mae"]
    overall = document["differences"][0]
    assert (overall["a"], overall["b"]) == tuple(names) and overall["difference"] > 0
    # The golden case of what was changed no longer holds.
    assert code == 1 and "output drifted" in " ".join(document["reasons"])
    assert (tmp_path / "report.json").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "elbow_pitch, off from what the robot was commanded" in page and "measured_mae" not in page


def cut_off(bag: Path, folder: Path, share: float) -> Path:
    """What a kill leaves: the file's beginning, no metadata."""
    (whole,) = bag.glob("*.mcap")
    data = whole.read_bytes()
    path = folder / "cut.mcap"
    path.write_bytes(data[: round(share * len(data))])
    return path


def test_a_bag_that_breaks_off_is_used_as_far_as_it_goes(tmp_path: Path, capsys) -> None:
    found = tmp_path / "found.json"
    assert main(["replay", str(cut_off(BAG, tmp_path, 0.6)), "--json", str(found)]) == 0
    document = json.loads(found.read_text())
    assert 0 < document["policies"][0]["chunks"] < 63 and document["problems"]
    assert "cut.mcap" in capsys.readouterr().out


def test_a_bag_of_which_nothing_is_left_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["replay", str(cut_off(BAG, tmp_path, 0.0001))]) == 2
    assert "cut.mcap" in capsys.readouterr().err


def test_a_broken_bag_does_not_keep_the_others_from_being_replayed(tmp_path: Path, capsys) -> None:
    found = tmp_path / "found.json"
    assert main(["replay", str(BAG), str(cut_off(BAG, tmp_path, 0.0001)), "--json", str(found)]) == 0
    document = json.loads(found.read_text())
    assert document["policies"][0]["chunks"] == 63 and "cut.mcap" in " ".join(document["problems"])
    assert "cut.mcap" in capsys.readouterr().out


def test_a_baseline_that_is_renewed_keeps_its_tolerances_and_is_all_that_is_said(tmp_path: Path, capsys) -> None:
    path = shutil.copy(BASELINE, tmp_path / "baseline.json")
    assert main(["replay", str(BAG), "--baseline", str(path), "--update-baseline"]) == 0
    text = capsys.readouterr().out
    assert f"baseline {path} was written from this replay" in text and "give --baseline" not in text
    assert json.loads(path.read_text())["tolerances"] == json.loads(BASELINE.read_text())["tolerances"]


def test_the_same_bag_gives_the_same_report_byte_for_byte(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        path = tmp_path / name / "report.html"
        assert main(["replay", str(BAG), "--latency", "150", "--out", str(path)]) == 0
        texts.append((path.read_bytes(), path.with_suffix(".json").read_bytes()))
        assert path.stat().st_size < 1_000_000 and "http" not in path.read_text().replace("http://www.w3.org", "")
    assert texts[0] == texts[1]
    (policy,) = json.loads(texts[0][1])["policies"]
    assert policy["chunks"] > 10 and len(policy["interventions"]) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no_such_bag"], "no_such_bag"),
        ([str(BAG), "--latency", "soon"], "--latency is soon; expected recorded, or 0 to 60000 ms"),
        ([str(BAG), "--update-baseline"], "--update-baseline without --baseline FILE"),
        ([str(BAG), "--device", "gpu"], "--device is 'gpu'; expected auto, cpu, or cuda where torch sees a GPU"),
        ([str(BAG), "--threads", "0"], "--threads is 0; expected at least 1"),
        ([str(BAG), "--strategy", "wish"], "strategy is 'wish'; expected one of latest, ensemble, rtc"),
        ([str(BAG), "--driver", "nobody"], "driver is 'nobody'; expected one of policy, teleop, any"),
        ([str(BAG), "--baseline", "no_such_file.json"], "no_such_file.json"),
        (
            [str(BAG), "--policy", "tiny_touch", "--policy", "tiny_touch", "--baseline", "x"],
            "expected one, or two without",
        ),
        ([str(BAG), "--policy", "tiny_touch", "--policy", "tiny_touch"], "is given twice"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(arguments: list[str], expected: str, capsys) -> None:
    assert main(["replay", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vla_ros replay:")]
    assert len(lines) == 1 and expected in lines[0]
