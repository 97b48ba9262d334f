"""``vla_ros import``: a released run becomes a policy directory that loads, or nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paligemma_helpers
import pytest
import smolvlm_helpers
import yaml
from policy_helpers import CAMERAS, HORIZON, JOINTS, POLICY_FILES, observation

torch = pytest.importorskip("torch")

from released_helpers import MAX_LENGTH, ROBOT, edit_cfg, released_stats, released_weights, write_run  # noqa: E402
from released_helpers import tied_config as config_of_run  # noqa: E402
from safetensors import safe_open  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.directory import infer, load_policy  # noqa: E402
from vla_ros.policies.files import load_processor, open_policy  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def imported(run: Path) -> Path:
    out = run.parent / "new" / "policy"
    assert do_import(run, out, "--json", str(run.parent / "report.json")) == 0
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run.parent / "vlm", tmp_path / "vlm")
    return tmp_path / "run"


def do_import(run: Path, out: Path, *options: str) -> int:
    return main(["import", str(run), str(out), "--robot", str(ROBOT), *options])


def refusal(capsys: pytest.CaptureFixture[str], run: Path, out: Path, *options: str) -> str:
    before = sorted(out.parent.iterdir())
    assert do_import(run, out, *options) == 2
    message = capsys.readouterr().err
    assert message.startswith("vla_ros import: ") and message.count("\n") == 1
    assert sorted(out.parent.iterdir()) == before, "something was left behind"
    return message


def test_the_directory_is_complete_and_loads_with_the_weights_of_the_release(imported: Path) -> None:
    files = sorted(path.relative_to(imported).as_posix() for path in imported.rglob("*") if path.is_file())
    assert files == sorted(POLICY_FILES) and sorted(imported.parent.iterdir()) == [imported]
    loaded = load_policy(imported, "cpu")
    expected = released_weights(config_of_run())
    for name, value in loaded.policy.named_parameters():
        assert torch.equal(value.to(torch.bfloat16), expected[name]), name
    assert loaded.digest == load_processor(imported).digest


def test_what_is_assumed_of_a_runs_numbers_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do_import(run, tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("the run doesn't say what its numbers are: taken for ")
    assert " in rad and m, actions relative, 0.1 s apart" in said and "--space" in said


def test_weights_stay_as_narrow_as_they_came(imported: Path) -> None:
    with safe_open(imported / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}


def test_the_golden_actions_are_those_of_wide_weights(imported: Path) -> None:
    golden = open_policy(imported).golden
    policy = load_policy(imported, "cpu").policy
    actions = infer(policy, golden.request, torch.device("cpu"))
    np.testing.assert_allclose(golden.actions, actions, atol=1e-5)
    moved = np.abs(golden.actions - golden.request.noise).max()
    assert moved > 0.1, "actions that are nothing but their noise would check nothing"


def test_the_directory_says_what_the_robot_and_the_release_said(imported: Path) -> None:
    processor = open_policy(imported).processor
    data = processor.data
    assert processor.config == config_of_run()
    assert (processor.data.joint_names, processor.data.camera_names) == (JOINTS, CAMERAS)
    assert (data.chunk_dt_s, data.action_mode, data.normalization) == (0.1, "relative", "quantile")
    assert data.action_offset == 0.0, "the first row of a chunk is what was commanded at the observation's own frame"
    assert processor.settings.buckets == (MAX_LENGTH,) and processor.settings.camera_width == 32
    released = released_stats()["action_chunk.actions"]["q01"][:HORIZON]
    np.testing.assert_allclose(processor.stats["action"].q01, released, rtol=1e-6)
    assert load_processor(imported).process(observation()).policy_input.input_ids.shape == (MAX_LENGTH,)


def test_the_report_says_what_was_imported(run: Path, imported: Path) -> None:
    report = json.loads((run.parent / "report.json").read_text())
    assert report["digest"] == load_processor(imported).digest
    assert report["num_bytes"] == 2 * report["num_parameters"] and report["head"].startswith("tied")
    assert report["model"].endswith("checkpoint_10/model.pt") and report["image_size"] == [16, 24]


def test_importing_twice_gives_the_same_policy(run: Path, imported: Path, tmp_path: Path) -> None:
    assert do_import(run / "checkpoint_10", tmp_path / "again") == 0
    for name in set(POLICY_FILES) - {"golden.safetensors"}:
        assert (tmp_path / "again" / name).read_bytes() == (imported / name).read_bytes(), name
    first, again = (open_policy(path).golden for path in (imported, tmp_path / "again"))
    np.testing.assert_array_equal(again.actions, first.actions)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2", "smolvlm"])
def test_every_backbone_is_imported(backbone: str, tmp_path: Path) -> None:
    if backbone == "smolvlm":
        config, tokenizer = smolvlm_helpers.smol_config(), smolvlm_helpers.tokenizer()
    else:
        config, tokenizer = paligemma_helpers.paligemma_config(backbone), paligemma_helpers.make_tokenizer()
    run = write_run(tmp_path, config, tokenizer=tokenizer)
    assert do_import(run, tmp_path / "out") == 0
    request = load_processor(tmp_path / "out").process(observation())
    actions = infer(load_policy(tmp_path / "out", "cpu").policy, request, torch.device("cpu"))
    assert actions.shape == (HORIZON, len(JOINTS)) and np.isfinite(actions).all()


def test_options_reach_the_directory(copy: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "vlm", tmp_path / "elsewhere")
    (copy / "stats.npz").rename(tmp_path / "mine.npz")
    options = ("--vlm", str(tmp_path / "elsewhere"), "--stats", str(tmp_path / "mine.npz"), "--chunk-dt-s", "0.05")
    more = ("--action-mode", "absolute", "--camera-size", "16x40")
    (tmp_path / "out").mkdir()  # empty: it may be there
    assert do_import(copy, tmp_path / "out", *options, *more) == 0
    processor = open_policy(tmp_path / "out").processor
    assert (processor.data.chunk_dt_s, processor.data.action_mode) == (0.05, "absolute")
    assert (processor.settings.camera_height, processor.settings.camera_width) == (16, 40)


def test_a_space_says_what_a_runs_numbers_are_and_which_cameras_it_sees(
    run: Path, imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    degrees = {"type": "joints", "joints": list(JOINTS), "unit": "deg"}
    slots = [{"key": "agentview", "camera": CAMERAS[1]}, {"key": "wrist", "camera": CAMERAS[1]}]
    space = {"chunk_dt_s": 0.05, "state": [degrees], "action": [degrees], "cameras": slots}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    given = ("--space", str(tmp_path / "space.yaml"))
    assert do_import(run, tmp_path / "out", *given, "--camera", f"agentview={CAMERAS[0]}") == 0
    processor, plain = open_policy(tmp_path / "out").processor, open_policy(imported).processor
    assert (processor.camera_names, processor.data.chunk_dt_s) == (tuple(CAMERAS), 0.05)
    seen, actions = observation(), np.zeros((HORIZON, len(JOINTS)), np.float32)
    middle = plain.decode(actions, seen).positions - seen.joint_positions
    np.testing.assert_allclose(np.rad2deg(processor.decode(actions, seen).positions), middle, atol=1e-4)
    for options, expected in (
        ((*given, "--action-mode", "relative"), "--action-mode is not for a run with --space"),
        (("--camera", "agentview=front"), "--camera is not for a run without --space"),
        (("--space", "droid"), "--space droid: data.state"),
    ):
        assert expected in refusal(capsys, run, tmp_path / "other", *options)


def test_a_directory_in_use_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("yes")
    assert "exists and is not empty" in refusal(capsys, run, tmp_path / "out")
    assert "exists and is not empty" in refusal(capsys, run, tmp_path / "out" / "precious")
    assert (tmp_path / "out" / "precious").read_text() == "yes"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--camera-size", "16"), "expected HxW in pixels"),
        (("--camera-size", "0x16"), "expected HxW in pixels"),
        (("--chunk-dt-s", "0"), "expected seconds above 0"),
        (("--chunk-dt-s", "nan"), "expected seconds above 0"),
        (("--robot", "tabletop"), "the policy has 3 state and 3 action dimensions, the robot 6 joints"),
        (("--stats", "nowhere.npz"), "--stats nowhere.npz is not a file"),
        (("--vlm", "nowhere"), "--vlm nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str
) -> None:
    assert expected in refusal(capsys, run, tmp_path / "out", *options)


@pytest.mark.parametrize("damage", ["class", "truncated", "tokenizer", "no tokenizer", "prompt", "statistics"])
def test_a_run_that_cannot_be_used_leaves_nothing_behind(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    model, tokenizer = copy / "checkpoint_10" / "model.pt", tmp_path / "vlm" / "tokenizer.json"
    if damage == "class":
        edit_cfg(copy, lambda cfg: cfg["policy"]["transforms"][0].update(_target_="os.system"))
    elif damage == "truncated":
        model.write_bytes(model.read_bytes()[:5000])
    elif damage == "tokenizer":
        tokenizer.write_text("{}")
    elif damage == "no tokenizer":
        tokenizer.unlink()
    elif damage == "prompt":
        edit_cfg(copy, lambda cfg: cfg["policy"]["transforms"][0].update(max_length=20))
    elif damage == "statistics":
        (copy / "stats.npz").write_bytes(b"PK")
    expected = {
        "class": "a class outside the registry",
        "truncated": "cut off, or not written by torch.save",
        "tokenizer": "not readable as a tokenizer",
        "no tokenizer": "put the VLM's tokenizer.json there",
        "prompt": "the largest bucket is 20",
        "statistics": "not readable as statistics",
    }
    assert expected[damage] in refusal(capsys, copy, tmp_path / "out")


def test_an_import_that_is_interrupted_leaves_nothing_behind(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args) -> None:
        assert len(list(tmp_path.glob(".out-*/out/model.safetensors"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("vla_ros.policies.importing.directory.infer", interrupt)
    assert do_import(copy, tmp_path / "out") == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "vlm"]
