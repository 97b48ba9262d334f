"""What a checkpoint of LeRobot's SmolVLA or ACT must be to become a policy: anything else is refused by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lerobot_helpers import CAMERAS, FOLDERS, FRONT, KEPT, WRIST, settings, take  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from vla_ros.cli import main  # noqa: E402
from vla_ros.policies.directory import load_policy  # noqa: E402
from vla_ros.policies.importing import hub  # noqa: E402
from vla_ros.policies.importing.settings import CameraSettings  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    def copy(kind: str) -> Path:
        shutil.copytree(KEPT / FOLDERS[kind] / "checkpoint", tmp_path / kind)
        return tmp_path / kind

    return copy


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_checkpoint_becomes_a_policy_for_the_cameras_it_is_given(kind: str, checkpoint) -> None:
    imported = take(kind, checkpoint(kind))
    assert imported.processor.camera_names == tuple(camera.name for camera in CAMERAS[kind].values())
    assert imported.processor.joint_names == settings(kind).joint_names
    assert not any(parameter.is_meta for parameter in imported.policy.parameters())


@pytest.mark.parametrize("kind", FOLDERS)
def test_compiled_names_are_the_same_weights(kind: str, checkpoint) -> None:
    folder = checkpoint(kind)
    whole = {name: value.clone() for name, value in take(kind, folder).policy.named_parameters()}
    change_weights(folder, lambda weights: weights.update({f"_orig_mod.{n}": weights.pop(n) for n in list(weights)}))
    again = dict(take(kind, folder).policy.named_parameters())
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("smolvla", {"adapt_to_pi_aloha": True}, "config.json has adapt_to_pi_aloha on, which isn't computed here"),
        (
            "smolvla",
            {"resize_imgs_with_padding": None},
            r"is None; expected \[128, 128\], the size of its vision",
        ),
        ("smolvla", {"chunk_size": "ten"}, "chunk_size is 'ten'; expected a whole number"),
        ("act", {"vision_backbone": "vit_b_16"}, "policy.backbone is 'vit_b_16'; expected one of resnet18"),
        (
            "act",
            {"feedforward_activation": "glu"},
            "feedforward_activation is 'glu'; expected one of relu, gelu",
        ),
        ("act", {"replace_final_stride_with_dilation": True}, "dilate_last with resnet18; expected resnet50"),
        ("act", {"n_obs_steps": 2}, "n_obs_steps above 1"),
        ("act", {"n_encoder_layers": 3}, "missing weights .encoder.layers.2"),
        ("act", {"dim_model": 64}, "weights of another shape"),
        ("act", {"use_vae": False}, "unexpected weights .vae_encoder"),
    ],
)
def test_what_is_not_computed_or_does_not_fit_is_refused(kind: str, changes, expected: str, checkpoint) -> None:
    folder = checkpoint(kind)
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=expected) as raised:
        take(kind, folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", FOLDERS)
def test_features_that_name_no_camera_are_refused(kind: str, checkpoint) -> None:
    folder = checkpoint(kind)
    state = json.loads((folder / "config.json").read_text())["input_features"]["observation.state"]
    change_config(folder, input_features={"observation.state": state})
    with pytest.raises(ValueError, match="its features name no camera"):
        take(kind, folder)


def test_the_state_of_an_environment_is_refused(checkpoint) -> None:
    folder = checkpoint("act")
    inputs = json.loads((folder / "config.json").read_text())["input_features"]
    change_config(folder, input_features=inputs | {"observation.environment_state": {"type": "ENV", "shape": [4]}})
    with pytest.raises(ValueError, match="'observation.environment_state' is of kind ENV, which no robot measures"):
        take("act", folder)


def test_act_needs_each_camera_in_the_size_of_its_training(checkpoint) -> None:
    folder = checkpoint("act")
    with pytest.raises(ValueError, match=f"'{WRIST}' has no camera.*give --camera {WRIST}=NAME"):
        take("act", folder, cameras={FRONT: CameraSettings("top", 96, 128)})
    large = CAMERAS["act"] | {WRIST: CameraSettings("hand", 480, 640)}
    with pytest.raises(ValueError, match=f"camera 'hand' gives 480x640 pixels, '{WRIST}' was 96x128 in training"):
        take("act", folder, cameras=large)


def test_smolvla_takes_some_of_its_cameras_in_any_size_but_not_none(checkpoint) -> None:
    folder = checkpoint("smolvla")
    assert take("smolvla", folder).processor.camera_sizes == {"top": (480, 640)}
    slots = "observation.images.camera1, observation.images.camera2"
    with pytest.raises(ValueError, match=f"give --camera SLOT=NAME for {slots}"):
        take("smolvla", folder, cameras={})


def test_where_a_long_instruction_is_cut_is_never_guessed(checkpoint, tmp_path: Path, monkeypatch) -> None:
    def unreachable(repo: str, name: str) -> Path:
        raise ValueError(f"{name} of hf:{repo}: the hub gives nothing")

    monkeypatch.setattr(hub, "fetch_file", unreachable)
    alone = tmp_path / "tokenizer.json"
    shutil.copy(KEPT / "smolvla_base/tokenizer/tokenizer.json", alone)
    with pytest.raises(ValueError, match="tokenizer_config.json is missing, which says where a long instruction is"):
        take("smolvla", checkpoint("smolvla"), tokenizer=str(alone))


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("act", lambda w: w.pop("model.action_head.bias"), "missing weights .action_head.bias"),
        ("act", lambda w: w.pop("model.backbone.conv1.weight"), "model.backbone.conv1.weight is missing"),
        (
            "act",
            lambda w: w["model.action_head.bias"].fill_(torch.nan),
            "bias has values that are not finite",
        ),
        ("act", lambda w: w.update({"model.dreams": torch.zeros(1)}), "unexpected weights .dreams"),
        ("act", lambda w: w.update({"model.action_head.bias": torch.zeros(6, dtype=torch.int64)}), "expected floats"),
        ("smolvla", lambda w: w.pop("model.state_proj.weight"), "the weight state_proj.weight is missing"),
        ("smolvla", lambda w: w.pop("model.vlm_with_expert.lm_expert.norm.weight"), "missing weights .expert.norm"),
    ],
)
def test_weights_that_are_not_whole_are_refused(kind: str, change, expected: str, checkpoint) -> None:
    folder = checkpoint(kind)
    change_weights(folder, change)
    with pytest.raises(ValueError, match=expected) as raised:
        take(kind, folder)
    assert "\n" not in str(raised.value)


def test_the_command_makes_a_policy_directory_for_a_robot(checkpoint, tmp_path: Path, capsys) -> None:
    folder = KEPT / FOLDERS["smolvla"]
    joints = list(load_robot(robot_file("tabletop")).joint_names)
    space = {"state": [{"type": "joints", "joints": joints, "unit": "deg"}]}
    (tmp_path / "space.yaml").write_text(json.dumps({**space, "action": space["state"]}))
    given = ["--robot", "tabletop", "--space", str(tmp_path / "space.yaml"), "--chunk-dt-s", "0.0333"]
    given += ["--camera", "camera1=top", "--camera", "camera2=none", "--tokenizer", str(folder / "tokenizer")]
    out = tmp_path / "policy"
    assert main(["import", str(checkpoint("smolvla")), str(out), *given, "--vlm", str(folder / "vlm")]) == 0
    assert "images seen as 128x128 pixels" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "smolvla")  # the directory is complete without its source
    loaded = load_policy(out, "cpu", with_guidance=True)
    assert loaded.processor.camera_sizes == {"top": (128, 128)} and not loaded.drift
