"""The published weights of a backbone under a fresh expert: folders as transformers itself writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import paligemma_helpers
import policy_helpers
import pytest
import smolvlm_helpers
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training_helpers import train_briefly
from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from vla_ros.policies.directory import load_policy
from vla_ros.policies.families import find_config
from vla_ros.policies.importing import hub
from vla_ros.policies.importing.backbone import find_backbone
from vla_ros.policies.modules.layers.sizes import GemmaSizes
from vla_ros.policies.modules.vlm_bridge.qwen.processor import LOCATION_TOKENS, train_tokenizer
from vla_ros.policies.pi0.processor import Pi0Processor
from vla_ros.share import robot_file, share_dir
from vla_ros.training.backbone import policy_on
from vla_ros.training.config import TrainConfig, complete_train_config
from vla_ros.training.derive import Wanted, derive

QWEN, PALIGEMMA, SMOLVLM = "qwen", "paligemma", "smolvlm"
# An expert that is as small as these backbones.
EXPERT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_hidden_layers": 2,
}
SMALL = [f"policy.action_expert_cfg.{key}={value}" for key, value in EXPERT.items()]


def make_qwen() -> tuple[nn.Module, Any]:
    config = Qwen3VLConfig(**policy_helpers.vlm_config())
    return Qwen3VLForConditionalGeneration(config), train_tokenizer(["touch it"], 400, LOCATION_TOKENS)


def make_paligemma() -> tuple[nn.Module, Any]:
    config = PaliGemmaConfig(**paligemma_helpers.vlm_config())
    return PaliGemmaForConditionalGeneration(config), paligemma_helpers.make_tokenizer()


def make_smolvlm() -> tuple[nn.Module, Any]:
    config = SmolVLMConfig(**smolvlm_helpers.vlm_config())
    return SmolVLMForConditionalGeneration(config), smolvlm_helpers.tokenizer()


MADE: Mapping[str, Callable[[], tuple[nn.Module, Any]]] = {
    QWEN: make_qwen,
    PALIGEMMA: make_paligemma,
    SMOLVLM: make_smolvlm,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    folders = {name: tmp_path_factory.mktemp(name) for name in MADE}
    for name, make in MADE.items():
        torch.manual_seed(0)
        model, tokenizer = make()
        model.save_pretrained(folders[name])
        tokenizer.save(str(folders[name] / "tokenizer.json"))
    pixels = {"size": {"shortest_edge": 256, "longest_edge": 1024}}
    (folders[QWEN] / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folders


def derived(source: Path, bags: list[Path], out: Path, policy: str | None = None, *overrides: str) -> TrainConfig:
    wanted = Wanted(robot_file("tabletop"), (str(bags[0]),), out, policy, str(source))
    return complete_train_config(share_dir() / "config", derive(wanted), overrides)


def copied(published: Path, to: Path) -> Path:
    shutil.copytree(published, to)
    return to


@pytest.mark.parametrize("kind", MADE)
def test_every_weight_of_a_published_backbone_is_under_the_fresh_expert(
    published: dict[str, Path], bags: list[Path], tmp_path: Path, kind: str
) -> None:
    config = derived(published[kind], bags, tmp_path / "policy", None, *SMALL)
    backbone = find_backbone(str(published[kind]))
    assert backbone is not None
    policy = policy_on(config.policy, backbone)
    torch.manual_seed(0)
    theirs = dict(MADE[kind]()[0].named_parameters())
    ours = {name: weight for name, weight in policy.named_parameters() if name.startswith("vlm_bridge.")}
    assert len(ours) == len(theirs)
    for name, weight in theirs.items():
        assert torch.equal(ours[f"vlm_bridge.causal_model.{name}"], weight), name


@pytest.mark.parametrize("kind", MADE)
def test_one_short_command_trains_on_it(
    published: dict[str, Path], bags: list[Path], tmp_path: Path, kind: str
) -> None:
    config = derived(published[kind], bags, tmp_path / "policy", None, *SMALL, "frozen=[backbone]")
    train_briefly(config)
    loaded = load_policy(tmp_path / "policy", "cpu")
    assert not loaded.drift and loaded.processor.camera_size == (128, 128)
    stored = load_file(published[kind] / "model.safetensors")
    trained = {name: weight for name, weight in loaded.policy.named_parameters() if name.startswith("vlm_bridge.")}
    shapes = sorted(weight.numel() for weight in stored.values())
    assert sum(weight.double().sum() for weight in trained.values()).item() == pytest.approx(
        sum(weight.double().sum() for weight in stored.values()).item()
    )
    assert sorted(weight.numel() for weight in trained.values()) == shapes


def test_names_of_earlier_releases_of_transformers_are_those_of_today(
    published: dict[str, Path], bags: list[Path], tmp_path: Path
) -> None:
    """As google/paligemma-3b-pt-224 has them, in two files."""
    folder = copied(published[PALIGEMMA], tmp_path / "old")
    current = dict(make_paligemma()[0].named_parameters())
    (folder / "model.safetensors").unlink()
    old = {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    renamed = {
        then + name.removeprefix(now): weight.detach().clone()
        for name, weight in current.items()
        for now, then in old.items()
        if name.startswith(now)
    }
    renamed["language_model.model.rotary_emb.inv_freq"] = torch.ones(8)
    names = sorted(renamed)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: renamed[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    backbone = find_backbone(str(folder))
    assert backbone is not None and len(backbone.weights) == 2
    policy = policy_on(derived(folder, bags, tmp_path / "policy", None, *SMALL).policy, backbone)
    ours = dict(policy.named_parameters())
    assert all(torch.equal(ours[f"vlm_bridge.causal_model.{name}"], weight) for name, weight in current.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors is missing; a published backbone has it"):
        find_backbone(str(folder))


def test_the_other_families_take_their_own_backbone(
    published: dict[str, Path], bags: list[Path], tmp_path: Path
) -> None:
    smol = ("policy.num_vlm_layers=2", "policy.num_expert_layers=2", "policy.expert_hidden_size=48")
    config = derived(published[SMOLVLM], bags, tmp_path / "a", "smolvla", *smol, "policy.expert_intermediate_size=24")
    backbone = find_backbone(str(published[SMOLVLM]))
    assert backbone is not None
    weights = dict(policy_on(config.policy, backbone).named_parameters())
    torch.manual_seed(0)
    theirs = dict(make_smolvlm()[0].named_parameters())
    held = {name.removeprefix("vlm."): weight for name, weight in weights.items() if name.startswith("vlm.")}
    assert not any(".layers.2." in name for name in held if name.startswith("text_model")) and len(held) > 20
    assert all(torch.equal(theirs[f"model.{name}"], weight) for name, weight in held.items())
    with pytest.raises(ValueError, match="a SmolVLAPolicy has no backbone of Qwen3VLForConditionalGeneration; start"):
        derived(published[QWEN], bags, tmp_path / "b", "smolvla")
    with pytest.raises(ValueError, match="a ActPolicy has no backbone of"):
        derived(published[QWEN], bags, tmp_path / "c", "act")


@pytest.mark.parametrize("name", ["pi0", "pi05-half"])
def test_pi0_reads_all_of_paligemma_but_what_the_last_layer_gives_nobody(
    published: dict[str, Path], tmp_path: Path, name: str
) -> None:
    sizes = GemmaSizes(width=16, mlp_dim=24, num_layers=3, num_heads=4, num_kv_heads=1, head_dim=16)
    small: Any = replace(find_config(name), expert=sizes, text=replace(sizes, width=40, mlp_dim=48))
    backbone = find_backbone(str(published[PALIGEMMA]))
    assert backbone is not None
    config = Pi0Processor.on_backbone(small, backbone.kind, backbone.config)
    policy = policy_on(config, backbone)
    held = [weight for own, weight in policy.named_parameters() if own.startswith(policy.parts["backbone"])]
    stored = list(load_file(published[PALIGEMMA] / "model.safetensors").values())
    assert all(any(torch.equal(weight, other) for other in stored) for weight in held)
    assert len(held) == len(stored) - 7, "of the last layer queries, output, norm and MLP, and the final norm"
    with pytest.raises(ValueError, match="text_config.model_type is 'gemma2'; a Pi0Policy reads 'gemma', PaliGemma 1"):
        Pi0Processor.on_backbone(small, backbone.kind, {"text_config": {"model_type": "gemma2"}})


def test_a_missing_weight_is_named_and_those_that_do_not_fit_are_listed(
    published: dict[str, Path], bags: list[Path], tmp_path: Path
) -> None:
    config = derived(published[SMOLVLM], bags, tmp_path / "policy", None, *SMALL)
    folder = copied(published[SMOLVLM], tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    norm = "model.text_model.norm.weight"
    changed = {
        "missing": {name: weight for name, weight in weights.items() if name != norm},
        "unexpected": {**weights, "model.text_model.bias": torch.ones(2)},
        "of another shape": {**weights, norm: torch.ones(7)},
        "not finite": {**weights, norm: torch.full_like(weights[norm], torch.nan)},
    }
    says = {
        "missing": f"missing weights (vlm_bridge.causal_model.{norm}); expected the weights that its config.json",
        "unexpected": "unexpected weights (vlm_bridge.causal_model.model.text_model.bias)",
        "of another shape": f"weights of another shape (vlm_bridge.causal_model.{norm} is [7], expected [32])",
        "not finite": f"weight vlm_bridge.causal_model.{norm} has values that are not finite",
    }
    for what, stored in changed.items():
        save_file(stored, folder / "model.safetensors")
        backbone = find_backbone(str(folder))
        assert backbone is not None
        with pytest.raises(ValueError) as refused:
            policy_on(config.policy, backbone)
        assert says[what] in str(refused.value) and "\n" not in str(refused.value), what


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "is a LlamaForCausalLM of transformers; expected one of Qwen3VL"),
        ({"vision_config": None}, "config.json has no group vision_config; give that of a whole SmolVLMForCond"),
        ({"scale_factor": 3}, "policy.vlm_config.scale_factor of the train config differ from its config.json"),
    ],
)
def test_another_model_than_the_configuration_has_is_refused(
    published: dict[str, Path], bags: list[Path], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    config = derived(published[SMOLVLM], bags, tmp_path / "policy", None, *SMALL)
    folder = copied(published[SMOLVLM], tmp_path / "other")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | change))
    with pytest.raises(ValueError) as refused:
        backbone = find_backbone(str(folder))
        assert backbone is not None
        policy_on(config.policy, backbone)
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_a_backbone_on_the_hub_is_looked_at_before_its_weights_come(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = copied(published[QWEN], tmp_path / "repo")
    (repo / "README.md").touch()
    fetched: list[str] = []
    names = tuple(path.name for path in repo.iterdir())
    monkeypatch.setattr(hub, "look_up", lambda repo, revision: hub.Revision(repo, "abc", names))
    monkeypatch.setattr(hub, "fetch_files", lambda revision, names: fetched.extend(names) or repo)
    found = find_backbone("hf:org/name")
    assert found is not None and found.weights == (repo / "model.safetensors",)
    small = {"config.json", "tokenizer.json", "preprocessor_config.json"}
    assert set(fetched[:-1]) == small and fetched[-1] == "model.safetensors"
    fetched.clear()
    (repo / "config.json").write_text('{"type": "smolvla"}')
    with pytest.raises(ValueError, match="hf:org/name is no published model: .* first, with vla_ros import"):
        find_backbone("hf:org/name")
    assert "model.safetensors" not in fetched


def test_a_backbone_without_its_tokenizer_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(published[QWEN], tmp_path / "cut")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer.json is missing; a published backbone has it beside"):
        find_backbone(str(folder))
    assert find_backbone(str(share_dir() / "models" / "tiny_touch")) is None
