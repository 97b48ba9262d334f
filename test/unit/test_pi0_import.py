"""``vla_ros import`` of LeRobot's and openpi's pi0: each layout gives the same policy, and what is missing is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pi0_helpers import CAMERAS, HORIZON, JOINTS, NAMES, Written, write_lerobot, write_openpi, write_space  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.directory import infer, load_policy  # noqa: E402
from vla_ros.policies.files import load_processor, open_policy  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.types import Observation  # noqa: E402

TEXT, HEAD = "paligemma_with_expert.paligemma.model.", "paligemma_with_expert.paligemma.lm_head.weight"


def do_import(folder: Path, out: Path, *options: str, space: Path | None = None) -> int:
    space = space or write_space(out.parent / "space.yaml")
    return main(["import", str(folder), str(out), "--space", str(space), *options])


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, out: Path, *options: str, space: Any = None) -> str:
    assert do_import(folder, out, *options, space=space) == 2
    message = capsys.readouterr().err
    assert message.startswith("vla_ros import: ") and message.count("\n") == 1, message
    assert not out.exists()
    return message


def actions_of(out: Path) -> np.ndarray:
    """Normalised actions for the golden request, whose pictures come from a fixed seed."""
    request = open_policy(out).golden.request
    return infer(load_policy(out, "cpu").policy, request, torch.device("cpu"))


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    written = write_lerobot(folder / "checkpoint", request.param)
    assert do_import(written.folder, folder / "out") == 0
    return written, folder / "out"


def test_the_weights_are_the_checkpoints_and_its_numbers_are_joints(plain: tuple[Written, Path]) -> None:
    written, out = plain
    loaded = load_policy(out, "cpu")
    for name, value in written.policy.named_parameters():
        assert torch.equal(loaded.policy.get_parameter(name), value), name
    rng, robot = np.random.default_rng(0), load_robot(robot_file("tabletop"))
    joints = np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])
    images = {camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in robot.cameras}
    seen = Observation(0, dict.fromkeys(images, 0), images, joints, "move to the red block")
    request, processor = loaded.processor.process(seen), loaded.processor
    degrees = np.array([*np.rad2deg(joints[:-1]), 75.0], np.float32)
    stats = written.stats["observation.state"]
    z = (degrees - stats["mean"]) / stats["std"]
    span = 2 * (degrees - stats["q01"]) / (stats["q99"] - stats["q01"]) - 1
    expected = z if written.policy.config.variant == "pi0" else span
    np.testing.assert_allclose(request.state[0, : len(JOINTS)], expected, atol=1e-5)
    assert not request.state[0, len(JOINTS) :].any(), "padding comes after normalising"
    ones = np.ones((HORIZON, len(JOINTS)), np.float32)
    there = written.stats["action"]
    numbers = there["mean"] + there["std"] if written.policy.config.variant == "pi0" else there["q99"]
    decoded = processor.decode(ones, seen)
    assert (processor.chunk_shape.offset, processor.chunk_shape.dt_s) == (0.0, 0.05)
    np.testing.assert_allclose(np.rad2deg(decoded.positions[0, :-1]), numbers[:-1], rtol=1e-5)
    np.testing.assert_allclose(decoded.positions[0, -1] / 0.8 * 100, numbers[-1], rtol=1e-5)


def _compiled(name: str) -> str:
    return f"model._orig_mod.{name}"


def _of_lerobot_03(name: str) -> str:
    """Its names of the backbone."""
    name = name.replace(f"{TEXT}language_model.", "paligemma_with_expert.paligemma.language_model.model.")
    for tower in ("vision_tower.", "multi_modal_projector."):
        name = name.replace(f"{TEXT}{tower}", f"paligemma_with_expert.paligemma.{tower}")
    name = name.replace(HEAD, "paligemma_with_expert.paligemma.language_model.lm_head.weight")
    return f"model.{name}"


@pytest.mark.parametrize("rename", [str, _compiled, _of_lerobot_03])
def test_every_way_to_name_weights_gives_the_same_policy(
    plain: tuple[Written, Path], tmp_path: Path, rename: Callable[[str], str]
) -> None:
    written, out = plain
    other = write_lerobot(tmp_path / "checkpoint", written.policy.config.variant, rename)
    assert do_import(other.folder, tmp_path / "out") == 0
    np.testing.assert_array_equal(actions_of(tmp_path / "out"), actions_of(out))


def test_an_embedding_that_is_stored_as_the_head_alone_is_found(plain: tuple[Written, Path], tmp_path: Path) -> None:
    written, out = plain
    other = write_lerobot(tmp_path / "checkpoint", written.policy.config.variant)
    weights = load_file(other.folder / "model.safetensors")
    weights[f"model.{HEAD}"] = weights.pop(f"model.{NAMES['embed_tokens.']}weight")
    save_file(weights, other.folder / "model.safetensors")
    assert do_import(other.folder, tmp_path / "out") == 0
    np.testing.assert_array_equal(actions_of(tmp_path / "out"), actions_of(out))


def test_statistics_of_lerobot_03_lie_among_the_weights(tmp_path: Path) -> None:
    written = write_lerobot(tmp_path / "checkpoint", "pi0")
    assert do_import(written.folder, tmp_path / "new") == 0
    weights = load_file(written.folder / "model.safetensors")
    for step, key in (("normalize_inputs", "observation.state"), ("unnormalize_outputs", "action")):
        for name in ("mean", "std"):
            buffer = f"{step}.buffer_{key.replace('.', '_')}.{name}"
            weights[buffer] = torch.from_numpy(written.stats[key][name])
    save_file(weights, written.folder / "model.safetensors")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json", "stats.safetensors"):
        (written.folder / name).unlink()
    written.edit("config.json", lambda document: document.update(n_action_steps=HORIZON, chunk_size=99))
    assert do_import(written.folder, tmp_path / "old", "--lerobot-version", "0.3") == 0
    for name in ("mean", "std"):
        new, old = (open_policy(tmp_path / each).processor.stats for each in ("new", "old"))
        np.testing.assert_array_equal(getattr(new["state"], name), getattr(old["state"], name))
        np.testing.assert_array_equal(getattr(new["action"], name), getattr(old["action"], name))


def test_old_rules_are_in_force_where_they_are_asked_for(tmp_path: Path) -> None:
    written = write_lerobot(tmp_path / "checkpoint")
    assert do_import(written.folder, tmp_path / "out", "--lerobot-version", "0.4") == 0
    settings = open_policy(tmp_path / "out").processor.settings
    assert settings.rules == "lerobot-0.4" and settings.num_prompt_states == 32


def test_relative_actions_are_added_to_the_state_but_for_the_excluded_joints(tmp_path: Path) -> None:
    written = write_lerobot(tmp_path / "checkpoint")
    step = {"enabled": True, "exclude_joints": ["gripper"], "action_names": [f"{name}.pos" for name in JOINTS]}
    written.edit("policy_preprocessor.json", lambda document: document["steps"][1].update(config=step))
    assert do_import(written.folder, tmp_path / "out") == 0
    action = open_policy(tmp_path / "out").processor.data.action
    references = {entry.get("joint"): entry.get("reference", "absolute") for entry in action}
    assert references["gripper"] == "absolute"
    assert {name for name, reference in references.items() if reference == "observation"} == {None}


def test_openpis_checkpoint_is_normalised_by_what_it_is(tmp_path: Path) -> None:
    for variant, mode in (("pi0", "openpi_mean_std"), ("pi05", "openpi_quantile")):
        written = write_openpi(tmp_path / variant, variant)
        out = tmp_path / f"{variant}_out"
        assert do_import(written.folder, out, "--camera", "right_wrist_0_rgb=none") == 0
        loaded = load_policy(out, "cpu")
        assert loaded.processor.data.normalization == mode
        for name, value in written.policy.named_parameters():
            assert torch.equal(loaded.policy.get_parameter(name), value), name
        np.testing.assert_array_equal(loaded.processor.stats["action"].mean[0], written.stats["action"]["mean"])


def test_a_policy_that_tells_no_state_has_the_shorter_prompt(tmp_path: Path) -> None:
    written = write_openpi(tmp_path / "checkpoint", "pi05")
    out = tmp_path / "out"
    assert do_import(written.folder, out, "--camera", "right_wrist_0_rgb=none", "--no-state-in-prompt") == 0
    request = open_policy(out).golden.request
    assert request.token_mask.sum() == 1 + 5, "<bos> and five words; a word-level tokenizer has no line break"


def drop(key: str) -> Callable[[Any], None]:
    return lambda document: document.pop(key)


def step(index: int, **changes: Any) -> Callable[[Any], None]:
    return lambda document: document["steps"][index].update(changes)


BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
EDITS: list[tuple[str, Callable[[Any], None], str]] = [
    ("config.json", lambda d: d.update(type="diffusion"), "is a diffusion policy of LeRobot, which has no family here"),
    ("config.json", lambda d: d.update(type="groot"), "is a GR00T checkpoint of LeRobot"),
    ("config.json", lambda d: d.update(type="sarm"), "is a LeRobot checkpoint of type 'sarm'; expected pi0, pi05"),
    ("config.json", lambda d: d.update(use_visual_memory=True), "has use_visual_memory on, which isn't computed here"),
    ("config.json", lambda d: d.update(chunk_size="50"), "chunk_size is '50'; expected a whole number from 1"),
    ("config.json", lambda d: d.update(input_features=None), "its features name no camera; give a checkpoint"),
    ("config.json", lambda d: d.update(output_features={}), "expected 'action' among them"),
    ("config.json", lambda d: d.update(image_resolution=[48, 48]), "sees 28x28 pixels, config.json says [48, 48]"),
    ("config.json", lambda d: d.update(action_feature_names=[*JOINTS[::-1]]), "put its joints in that order"),
    (BEFORE, step(0, registry_name="my_step"), "step 'my_step' isn't known and may change the numbers; leave it out"),
    (
        BEFORE,
        step(2, state_file="gone.safetensors"),
        "gone.safetensors is missing, which policy_preprocessor.json names",
    ),
    (BEFORE, step(2, state_file="../stats.safetensors"), "expected a file beside it, not a path"),
    (BEFORE, step(2, config={"eps": 1e-3}), "normalizer_processor has eps 0.001; expected 1e-08"),
    (BEFORE, drop("steps"), "steps is NoneType; expected a list"),
]


@pytest.mark.parametrize(("name", "change", "expected"), EDITS)
def test_a_checkpoint_that_says_something_else_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[Any], None], expected: str
) -> None:
    written = write_lerobot(tmp_path / "checkpoint")
    written.edit(name, change)
    assert expected in refusal(capsys, written.folder, tmp_path / "out")


def test_an_unknown_step_can_be_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_lerobot(tmp_path / "checkpoint")
    written.edit(BEFORE, step(0, registry_name="my_step"))
    for name, expected in (("your_step", "there is no such step"), ("normalizer_processor", "this step is known")):
        options = ("--ignore-step", "my_step", "--ignore-step", name)
        assert expected in refusal(capsys, written.folder, tmp_path / "out", *options)
    assert do_import(written.folder, tmp_path / "out", "--ignore-step", "my_step") == 0


def test_a_base_checkpoint_may_be_trained_and_not_driven_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = write_lerobot(tmp_path / "base"), tmp_path / "out"
    assert "--for-training: " in refusal(capsys, base.folder, out, "--for-training")
    for name in (BEFORE, AFTER):
        base.edit(name, lambda document: [each.pop("state_file", None) for each in document["steps"]])
    for group, key in (("input_features", "observation.state"), ("output_features", "action")):
        base.edit("config.json", lambda document: document[group][key].update(shape=[32]))  # as released ones have it
    assert do_import(base.folder, out, "--for-training") == 0
    load_policy(out, "cpu")  # its weights are what a training starts from
    processor = load_processor(out)
    assert processor.config.action_dim == processor.config.state_dim == len(JOINTS)
    assert processor.data.normalization in ("lerobot_mean_std", "lerobot_range")
    with pytest.raises(
        ValueError, match="data.for_training is on: a base checkpoint, which nothing can be driven with"
    ):
        processor.bind(load_robot(robot_file("tabletop")))


def test_what_is_no_whole_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    base = write_lerobot(tmp_path / "base")
    for name in (BEFORE, AFTER):
        base.edit(name, lambda document: [each.pop("state_file", None) for each in document["steps"]])
    assert "a base checkpoint, which nothing can be driven with; fine-tune it" in refusal(capsys, base.folder, out)
    for name, other in ((BEFORE, AFTER), (AFTER, BEFORE)):
        half = write_lerobot(tmp_path / name.partition(".")[0])
        half.edit(name, lambda document: [each.pop("state_file", None) for each in document["steps"]])
        message = refusal(capsys, half.folder, out)
        assert f"{name} is missing, or names no state_file, and {other} has statistics" in message
    adapters = write_lerobot(tmp_path / "adapters")
    (adapters.folder / "model.safetensors").rename(adapters.folder / "adapter_model.safetensors")
    (adapters.folder / "adapter_config.json").write_text("{}")
    assert "holds adapters (PEFT) and not the weights" in refusal(capsys, adapters.folder, out)
    beside = write_lerobot(tmp_path / "beside")
    beside.edit("config.json", lambda document: document.update(use_peft=True))
    assert "holds adapters (PEFT) beside the weights that they change" in refusal(capsys, beside.folder, out)
    pickled = write_lerobot(tmp_path / "pickled")
    (pickled.folder / "model.safetensors").rename(pickled.folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which could run code" in refusal(capsys, pickled.folder, out)
    assert "nowhere is not a folder; give that of a checkpoint" in refusal(capsys, tmp_path / "nowhere", out)
    short = write_lerobot(tmp_path / "short")
    weights = load_file(short.folder / "model.safetensors")
    del weights["model.action_out_proj.bias"]
    weights["model.more"] = torch.ones(1)
    save_file(weights, short.folder / "model.safetensors")
    message = refusal(capsys, short.folder, out)
    assert "missing weights (action_out_proj.bias) and unexpected weights (more)" in message
    weights = load_file(base.folder / "model.safetensors")
    weights["model.action_out_proj.bias"][0] = torch.nan
    save_file(weights, base.folder / "model.safetensors")
    (tmp_path / "jax" / "params").mkdir(parents=True)
    assert "openpi's JAX checkpoint; convert it with openpi's" in refusal(capsys, tmp_path / "jax", out)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_lerobot(tmp_path / "checkpoint")
    weights = load_file(written.folder / "model.safetensors")
    weights["model.action_out_proj.bias"][0] = torch.nan
    save_file(weights, written.folder / "model.safetensors")
    expected = "weight action_out_proj.bias has values that are not finite"
    assert expected in refusal(capsys, written.folder, tmp_path / "out")


def test_what_the_checkpoint_does_not_say_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, out = write_lerobot(tmp_path / "checkpoint"), tmp_path / "out"
    assert main(["import", str(written.folder), str(out)]) == 2
    assert "6 numbers of state, 6 numbers of action mean; say it with --space" in capsys.readouterr().err
    mute = write_space(tmp_path / "mute.yaml", cameras=[], chunk_dt_s=None)
    assert "how far apart its actions are; say it with --chunk-dt-s" in refusal(capsys, written.folder, out, space=mute)
    given = ("--chunk-dt-s", "0.1")
    message = refusal(capsys, written.folder, out, *given, space=mute)
    assert "which camera is observation.images.base_0_rgb? say it with --camera base_0_rgb=NAME" in message
    cameras = ("--camera", "base_0_rgb=front", "--camera", "left_wrist_0_rgb=wrist")
    message = refusal(capsys, written.folder, out, *given, *cameras, space=mute)
    assert "--camera left_wrist_0_rgb=wrist: the robot has front, top; give one of these, or none" in message
    cameras = ("--camera", "base_0_rgb=front", "--camera", "left_wrist_0_rgb=none")
    assert do_import(written.folder, out, *given, *cameras, space=mute) == 0
    assert open_policy(out).processor.camera_names == ("front",)
    few = write_space(tmp_path / "few.yaml", state=[{"type": "joint", "joint": "gripper"}])
    message = refusal(capsys, written.folder, tmp_path / "other", space=few)
    assert "state makes 1 numbers" in message and "has 6: give the space it was trained with" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--asset", "robot/place"), "has no such statistics; it has robot/pick, robot/pour"),
        ((), "has statistics of several assets; name one with --asset: robot/pick, robot/pour"),
        (("--asset", "robot/pick", "--stats", "x.npz"), "--stats is not for a checkpoint of LeRobot or openpi"),
        (
            ("--asset", "robot/pick", "--camera", "right_wrist_0_rgb=none", "--tokenizer", "/nowhere"),
            "--tokenizer /nowhere: /nowhere does not exist",
        ),
        (("--asset", "robot/pick", "--camera", "left=top"), "no such slot"),
        (("--asset", "robot/pick", "--lerobot-version", "0.5"), "expected one of 0.3, 0.4, 0.6"),
        (("--asset", "robot/pick", "--lerobot-version", "0.4"), "--lerobot-version is not for openpi's checkpoints"),
        (
            ("--asset", "robot/pick", "--ignore-step", "x"),
            "--ignore-step is not for openpi's checkpoints; leave it out",
        ),
        (
            ("--asset", "robot/pick", "--camera", "right_wrist_0_rgb=none", "--no-state-in-prompt"),
            "--no-state-in-prompt is not for a pi0, whose prompt never tells the state",
        ),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str
) -> None:
    written = write_openpi(tmp_path / "checkpoint", assets=("robot/pick", "robot/pour"))
    assert expected in refusal(capsys, written.folder, tmp_path / "out", *options)


def test_an_option_that_a_type_has_no_use_for_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = write_lerobot(tmp_path / "checkpoint")
    for option in (("--asset", "x"), ("--vlm", "x"), ("--no-state-in-prompt",)):
        message = refusal(capsys, written.folder, tmp_path / "out", *option)
        assert f"{option[0]} is not for LeRobot's 'pi05'; leave it out" in message


def test_a_slot_that_the_space_has_black_is_seen_black(tmp_path: Path) -> None:
    written = write_lerobot(tmp_path / "checkpoint", "pi0")
    front, wrist = CAMERAS
    cameras = [{"key": front, "camera": CAMERAS[front]}, {"key": wrist, "missing": "zeros"}]
    space = write_space(tmp_path / "black.yaml", cameras=cameras)
    assert do_import(written.folder, tmp_path / "out", space=space) == 0
    opened = open_policy(tmp_path / "out")
    assert [slot.missing for slot in opened.processor.data.slots] == ["mask", "zeros"]
    assert (opened.golden.request.pixel_values[1] == -1).all(), "the second picture that the network sees"


def test_a_tokenizer_that_is_nowhere_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(repo: str, name: str) -> Path:
        raise ValueError("no network")

    monkeypatch.setattr("vla_ros.policies.importing.hub.fetch_file", offline)
    written = write_lerobot(tmp_path / "checkpoint")
    (written.folder / "tokenizer" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    message = refusal(capsys, written.folder, tmp_path / "out")
    assert f"'google/paligemma-3b-pt-224' is not in {written.folder}" in message
    assert "give its tokenizer.json or its folder with --tokenizer PATH" in message
    assert do_import(written.folder, tmp_path / "out", "--tokenizer", str(tmp_path)) == 0


def test_the_folder_of_a_training_and_the_report_say_what_was_imported(tmp_path: Path) -> None:
    written = write_lerobot(tmp_path / "step" / "pretrained_model")
    report = tmp_path / "report.json"
    assert do_import(tmp_path / "step", tmp_path / "out", "--json", str(report)) == 0
    said = json.loads(report.read_text())
    assert said["model"] == str(written.folder / "model.safetensors") and said["chunk_dt_s"] == 0.05
    assert list(CAMERAS.values()) == list(open_policy(tmp_path / "out").processor.camera_names)


def test_a_packaged_space_fits_the_packaged_robot_and_is_named_where_none_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, robot = write_lerobot(tmp_path / "checkpoint"), load_robot(robot_file("so101"))
    cameras = [x for pair in zip(CAMERAS, robot.camera_names, strict=True) for x in ("--camera", "=".join(pair))]
    asked = ["import", str(written.folder), str(tmp_path / "out"), "--robot", "so101", *cameras]
    assert main(asked) == 2
    assert "(presets that fit" in (message := capsys.readouterr().err)
    assert "pi0_relative, so101_degrees, so101_range)" in message and "droid" not in message
    assert main([*asked, "--space", "pi0_relative"]) == 2
    assert "action[0] is relative to the observation, and " in capsys.readouterr().err
    step = {"enabled": True, "exclude_joints": ["gripper"], "action_names": list(JOINTS)}
    written.edit(BEFORE, lambda document: document["steps"][1].update(config=step))
    assert main([*asked, "--space", "pi0_relative"]) == 0
    processor = open_policy(tmp_path / "out").processor
    processor.bind(robot)
    assert [entry.get("reference") for entry in processor.data.action] == ["observation", None]
