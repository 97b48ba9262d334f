"""A released cfg.yaml becomes our configuration; what would run code or be computed otherwise is refused by its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from policy_helpers import pi_config

pytest.importorskip("torch")

from released_helpers import MAX_LENGTH, PROCESSOR, released_cfg, tied_config  # noqa: E402

from vla_ros.policies.pi.released.config import read_released_config, read_vlm_config, untied  # noqa: E402
from vla_ros.policies.pi.released.settings import (  # noqa: E402
    RobotSettings,
    data_config,
    fit_size,
    processor_config,
)

CASES = Path(__file__).resolve().parents[1] / "data" / "pi_parity"


def write(tmp_path: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    document = released_cfg(tied_config())
    if change:
        change(document)
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "cfg.yaml"


def refusal(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    path = write(tmp_path, change)
    with pytest.raises(ValueError) as caught:
        read_released_config(path).with_vlm(tied_config().vlm_config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_released_configuration_becomes_the_one_it_was_made_of(tmp_path: Path) -> None:
    released = read_released_config(write(tmp_path))
    assert released.with_vlm(tied_config().vlm_config) == tied_config()
    assert (released.model_id, released.max_length, released.image_size) == ("vlm", MAX_LENGTH, None)


@pytest.mark.parametrize("case", ["qwen3vl", "paligemma", "smolvlm"])
def test_every_recorded_configuration_is_understood(case: str) -> None:
    released = read_released_config(CASES / case / "run" / "cfg.yaml")
    config = released.with_vlm(read_vlm_config(CASES / case / "vlm" / "config.json"))
    assert (config.state_dim, config.action_dim, config.num_obs_registers) == (6, 5, 4)
    assert config.action_expert_cfg.only_attend_to_final_layer and config.num_noise_per_sample == 2
    assert released.image_size == ((56, 56) if case == "paligemma" else None)


@pytest.mark.parametrize(
    "change",
    [
        lambda cfg: cfg["policy"].update(_target_="os.system"),
        lambda cfg: cfg["policy"].update(_target_=["os.system"]),
        lambda cfg: cfg["policy"].update(_target_=PROCESSOR),
        lambda cfg: cfg["policy"]["transforms"][0].update(_target_="subprocess.run"),
        lambda cfg: cfg["policy"]["action_expert_cfg"].update(_target_="os.system"),
        lambda cfg: cfg["data"].update(_target_="builtins.eval"),
        lambda cfg: cfg.update(_target_="os.system"),
        lambda cfg: cfg.update(extra=[{"deep": {"_target_": "os.system"}}]),
    ],
)
def test_a_class_outside_the_registry_is_refused_wherever_it_is_named(tmp_path: Path, change) -> None:
    message = refusal(tmp_path, change)
    assert "_target_" in message and "cfg.yaml" in message


def test_the_data_set_of_a_release_may_be_named_since_nobody_reads_it(tmp_path: Path) -> None:
    write(tmp_path, lambda cfg: cfg["data"].update(_target_="vla_scratch.datasets.libero.dataset.LIBERODataset"))
    assert read_released_config(tmp_path / "cfg.yaml").model_id == "vlm"


def test_an_interpolation_of_another_key_is_resolved(tmp_path: Path) -> None:
    write(tmp_path, lambda cfg: cfg["policy"].update(action_horizon="${data.action_horizon}"))
    assert read_released_config(tmp_path / "cfg.yaml").policy["action_horizon"] == pi_config().action_horizon


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${oc.decode:x}", "${a.${b}}", "${oc.env:HOME} ${data.x}"])
def test_an_interpolation_that_would_run_a_resolver_is_refused(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, lambda cfg: cfg["policy"].update(model_id=text))
    assert f"policy.model_id is '{text}'; only another key may stand in" in message


def test_an_interpolation_of_a_key_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path, lambda cfg: cfg["policy"].update(model_id="${nowhere}"))


def test_a_yaml_that_would_construct_an_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text("policy: !!python/object/apply:os.system ['touch marker']")
    with pytest.raises(ValueError, match="cfg.yaml: not readable as YAML"):
        read_released_config(tmp_path / "cfg.yaml")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda cfg: cfg["policy"].update(use_states=True), "unknown key 'use_states'"),
        (lambda cfg: cfg["policy"]["action_expert_cfg"].update(width=3), "unknown key 'width'"),
        (lambda cfg: cfg["policy"].pop("use_state"), "policy: key 'use_state' is missing"),
        (lambda cfg: cfg["policy"]["action_expert_cfg"].pop("qk_norm"), "key 'qk_norm' is missing"),
        (lambda cfg: cfg["policy"]["action_expert_cfg"].update(mlp_dropout=0.1), "mlp_dropout is 0.1; this package"),
        (lambda cfg: cfg["policy"]["action_expert_cfg"].update(mlp_activation="gelu"), "computes 'silu' only"),
        (lambda cfg: cfg["policy"].update(vlm_type="Llama"), "not the processor of Llama"),
        (lambda cfg: cfg["policy"].update(action_dim=None), "policy.action_dim is None; expected a whole number"),
        (lambda cfg: cfg["policy"].update(transforms=[]), "a list with the one processor"),
        (lambda cfg: cfg["policy"]["transforms"][0].update(shell="rm"), "unknown key 'shell'"),
        (lambda cfg: cfg["policy"]["transforms"][0].update(processor_class="os"), "is 'os', outside the registry"),
        (lambda cfg: cfg["policy"].update({"two\nlines": 1}), "unknown key 'two lines'"),
        (lambda cfg: cfg["policy"]["transforms"][0].update(max_length="long"), "max_length is 'long'"),
        (lambda cfg: cfg["policy"]["transforms"][0].update(target_size=[0, 8]), "an image of [0, 8]"),
        (lambda cfg: cfg["data"].update(action_horizon=9), "policy.action_horizon is 4, data.action_horizon 9"),
        (lambda cfg: cfg.pop("policy"), "has no group 'policy'"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_key(tmp_path: Path, change, expected: str) -> None:
    message = refusal(tmp_path, change)
    assert expected in message


def test_another_vlm_than_the_one_of_the_run_is_refused(tmp_path: Path) -> None:
    released = read_released_config(write(tmp_path))
    with pytest.raises(ValueError, match="describes LlamaForCausalLM, cfg.yaml names Qwen3VL"):
        released.with_vlm(tied_config().vlm_config | {"architectures": ["LlamaForCausalLM"]})


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_a_vlm_configuration_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json: "):
        read_vlm_config(tmp_path / "config.json")


def test_untying_changes_the_flag_of_the_text_tower_only_where_it_is() -> None:
    config = tied_config()
    assert untied(config).vlm_config["tie_word_embeddings"] is False
    assert untied(config).vlm_config["text_config"] == config.vlm_config["text_config"]
    both = {**config.vlm_config, "text_config": {**config.vlm_config["text_config"], "tie_word_embeddings": True}}
    assert untied(pi_config(vlm_config=both)).vlm_config["text_config"]["tie_word_embeddings"] is False
    assert config.vlm_config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (480, 640)), ((224, 224), (256, 256)), ((100, 300), (160, 448)), ((4000, 6000), (3328, 4992))],
)
def test_images_get_the_size_that_the_image_processor_of_transformers_gives_them(size, expected) -> None:
    assert fit_size(size, 32, (65536, 16777216)) == expected


def robot(num_joints: int = 3) -> RobotSettings:
    joints = tuple(f"joint{i}" for i in range(num_joints))
    return RobotSettings(joints, ("front", "top"), (480, 640), 0.05, "absolute")


def test_the_image_size_is_the_releases_the_vlms_or_fits_the_camera(tmp_path: Path) -> None:
    config = tied_config()
    released = read_released_config(write(tmp_path))
    (tmp_path / "sizes.json").write_text(json.dumps({"min_pixels": 16, "max_pixels": 400}))
    made = processor_config(config, released, tmp_path / "sizes.json", (30, 20))
    assert (made.image_height, made.image_width, made.buckets) == (24, 16, (MAX_LENGTH,))
    assert (made.camera_height, made.camera_width, made.type) == (30, 20, "QwenProcessor")
    vision = {**config.vlm_config["vision_config"], "image_size": 56}
    square = pi_config(vlm_config={**config.vlm_config, "vision_config": vision})
    assert processor_config(square, released, None, (30, 20)).image_height == 56
    write(tmp_path, lambda cfg: cfg["policy"]["transforms"][0].update(target_size=[32, 48]))
    fixed = processor_config(square, read_released_config(tmp_path / "cfg.yaml"), None, (30, 20))
    assert (fixed.image_height, fixed.image_width) == (32, 48)


@pytest.mark.parametrize("text", ["[]", "{", '{"min_pixels": 9, "max_pixels": 4}', '{"size": {"shortest_edge": "x"}}'])
def test_damaged_image_settings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ValueError, match="preprocessor_config.json: "):
        released = read_released_config(write(tmp_path))
        processor_config(tied_config(), released, tmp_path / "preprocessor_config.json", (30, 20))


def test_a_robot_with_other_joints_is_refused_with_both_numbers() -> None:
    data = data_config(tied_config(), robot())
    assert (data.normalization, data.action_mode, data.chunk_dt_s) == ("quantile", "absolute", 0.05)
    with pytest.raises(ValueError, match="3 state and 3 action dimensions, the robot 2 joints .*--robot"):
        data_config(tied_config(), robot(num_joints=2))
