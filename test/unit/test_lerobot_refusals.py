"""Checkpoints that LeRobot isn't given to run, each refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lerobot_made_helpers import ACT, BEFORE, ROBOT, edit, make, needs_lerobot, refusal, require  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.lerobot import installed  # noqa: E402
from vla_ros.policies.lerobot.checkpoint import check_files  # noqa: E402
from vla_ros.policies.lerobot.running import own_code_only  # noqa: E402


def test_weights_that_lerobot_lacks_are_not_left_random(tmp_path: Path, capsys: Any) -> None:
    from safetensors.numpy import load_file, save_file

    require("act")
    made = make(tmp_path / "theirs", "act")
    weights = load_file(made.folder / "model.safetensors")
    weights.pop("model.action_head.weight")
    save_file(weights, made.folder / "model.safetensors")
    message = refusal(capsys, made.folder, tmp_path / "policy")
    assert "can't load its 'act': " in message and "action_head.weight" in message


@needs_lerobot
def test_a_type_that_lerobot_does_not_know_is_refused(tmp_path: Path, capsys: Any) -> None:
    made = make(tmp_path / "theirs", "act")
    edit(made.folder / "config.json", lambda d: d.update(type="sarm"))
    message = refusal(capsys, made.folder, tmp_path / "policy")
    assert "can't load its 'sarm': it knows no such type; expected one of act, " in message


def foreign(document: Any) -> None:
    del document["steps"][0]["registry_name"]
    document["steps"][0]["class"] = "os.system"


EDITS: list[tuple[str, Callable[[Any], object], str]] = [
    (BEFORE, foreign, "a step names the class 'os.system', which could run code; nothing was run"),
    (BEFORE, lambda d: d["steps"][-1].update(state_file="../a.safetensors"), "expected a file beside it, not a path"),
    (BEFORE, lambda d: d["steps"][-1].update(state_file="a.safetensors"), "a.safetensors is missing, which"),
    (BEFORE, lambda d: d["steps"][-1].update(state_file="config.json"), "expected a safetensors file"),
    (BEFORE, lambda d: d.update(steps=None), "steps is no list of objects"),
    (
        BEFORE,
        lambda d: d["steps"].append({"registry_name": "tokenizer_processor", "config": {"tokenizer_name": "a/b"}}),
        "reads text by the tokenizer 'a/b' and has none in tokenizer/; give the folder",
    ),
    ("config.json", lambda d: d.update(output_features={}), "expected 'action' among them"),
    (
        "config.json",
        lambda d: d["input_features"].update({"observation.environment_state": {"type": "ENV", "shape": [2]}}),
        "is of kind ENV, which no robot measures",
    ),
    ("config.json", lambda d: d["output_features"]["action"].update(shape=[7]), "action makes 6 numbers"),
]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kept ACT checkpoint, where LeRobot need not be installed to be refused."""
    monkeypatch.setattr("vla_ros.policies.lerobot.recording.require_lerobot", lambda: "0.6.1")
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in ACT.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


SIX = ["--robot", "so101", "--space", "so101_degrees", "--chunk-dt-s", "0.1"]


@pytest.mark.parametrize(("name", "change", "expected"), EDITS)
def test_a_checkpoint_that_is_not_whole_or_could_run_code_is_refused_in_one_line(
    copied: Path, tmp_path: Path, capsys: Any, name: str, change: Callable[[Any], object], expected: str
) -> None:
    edit(copied / name, change)
    cameras = ["--camera", "front=front", "--camera", "wrist=wrist"]
    assert expected in refusal(capsys, copied, tmp_path / "policy", *SIX, *cameras)


@pytest.mark.parametrize("name", [BEFORE, "policy_postprocessor.json"])
def test_a_checkpoint_without_its_processors_is_refused(copied: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    (copied / name).unlink()
    assert f"{name} is missing; LeRobot runs no policy without it" in refusal(capsys, copied, tmp_path / "policy")


def test_weights_in_a_pickle_are_refused(copied: Path, tmp_path: Path, capsys: Any) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which could run code" in refusal(capsys, copied, tmp_path / "policy")


def test_a_space_of_another_size_is_refused(copied: Path, tmp_path: Path, capsys: Any) -> None:
    assert "makes 3 numbers" in refusal(capsys, copied, tmp_path / "policy")


def test_where_lerobot_is_not_installed_the_line_says_how_to_have_it(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    message = refusal(capsys, ACT, tmp_path / "policy")
    assert "LeRobot is not installed here; install the extra lerobot: Python 3.12" in message


def test_a_type_without_a_family_is_told_of_this_way(copied: Path, tmp_path: Path, capsys: Any) -> None:
    edit(copied / "config.json", lambda d: d.update(type="diffusion"))
    assert main(["import", str(copied), str(tmp_path / "policy"), "--robot", str(ROBOT)]) == 2
    assert "installed LeRobot with --runner lerobot (docs/lerobot.md), or serve it" in capsys.readouterr().err


def test_what_is_no_checkpoint_of_lerobot_is_not_run_by_it(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "nothing").mkdir()
    assert "is no checkpoint of LeRobot" in refusal(capsys, tmp_path / "nothing", tmp_path / "policy")


def test_an_option_that_means_nothing_to_lerobot_is_refused(tmp_path: Path, capsys: Any) -> None:
    for option in (["--lerobot-version", "0.4"], ["--ignore-step", "a"], ["--vlm", "b"]):
        assert f"{option[0]} is not for a policy that LeRobot runs" in refusal(
            capsys, ACT, tmp_path / "policy", *option
        )


def test_a_folder_is_told_from_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks model.safetensors; restore"):
        check_files(tmp_path, {"config.json": "", "model.safetensors": ""})


def test_code_that_a_repository_brings_is_not_run(tmp_path: Path) -> None:
    from transformers import AutoConfig

    marker = tmp_path / "ran"
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Strange"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "strange.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with own_code_only(), pytest.raises(ValueError, match="it asks for the code Strange of a repository; nothing of"):
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert not marker.exists()
