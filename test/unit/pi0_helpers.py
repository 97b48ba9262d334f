"""Small pi0 and pi0.5 policies, and checkpoints of them as LeRobot and openpi write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.policies.fill import build_policy
from vla_ros.policies.modules.layers.sizes import GemmaSizes, SiglipSizes
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.policy import Pi0Policy

HORIZON, SIDE, VOCABULARY = 6, 28, 40
JOINTS = ("base_yaw", "shoulder_pitch", "elbow_pitch", "wrist_pitch", "wrist_roll", "gripper")
CAMERAS = {"base_0_rgb": "front", "left_wrist_0_rgb": "top"}
SHARED = {"num_layers": 3, "num_heads": 4, "num_kv_heads": 1, "head_dim": 8}
WORDS = "<pad> <bos> <unk> a b c move to the red block Task: State: ; Action:".split()
# LeRobot's names of ours, without ``model.``.
NAMES = {
    "vision.": "paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
    "projector.": "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.",
    "embed_tokens.": "paligemma_with_expert.paligemma.model.language_model.embed_tokens.",
    "text_layers.": "paligemma_with_expert.paligemma.model.language_model.layers.",
    "expert.layers.": "paligemma_with_expert.gemma_expert.model.layers.",
    "expert.norm.": "paligemma_with_expert.gemma_expert.model.norm.",
}
Tensors = dict[str, torch.Tensor]


def tiny_config(variant: str = "pi05", **changes: Any) -> Pi0Config:
    given = {
        "type": "Pi0Policy",
        "variant": variant,
        "vocab_size": VOCABULARY,
        "text": GemmaSizes(width=32, mlp_dim=48, **SHARED),
        "expert": GemmaSizes(width=16, mlp_dim=24, **SHARED),
        "vision": SiglipSizes(width=32, mlp_dim=48, num_layers=1, num_heads=16, patch_size=14, image_size=SIDE),
        "action_horizon": HORIZON,
        "action_dim": len(JOINTS),
        "state_dim": len(JOINTS),
        "num_steps": 4,
    }
    return Pi0Config(**given | changes)


def tiny_policy(config: Pi0Config) -> Pi0Policy:
    """Random, with norms that do something."""
    torch.manual_seed(0)
    policy = build_policy(config)
    assert isinstance(policy, Pi0Policy)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if name.endswith("norm.weight"):
                value.normal_(std=0.1)
    return policy.eval().requires_grad_(False)


def tiny_tokenizer() -> Tokenizer:
    known = dict(zip(WORDS, range(len(WORDS)), strict=True))
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def stored_weights(policy: Pi0Policy) -> Tensors:
    """By LeRobot's names, with what nobody reads: the rest of the last text layer, norms and heads."""
    weights = {}
    for name, value in policy.state_dict().items():
        ours = next((ours for ours in NAMES if name.startswith(ours)), "")
        weights[NAMES.get(ours, "") + name.removeprefix(ours)] = value.clone()
    last, text = policy.config.text.num_layers - 1, NAMES["text_layers."]
    for name in [name for name in weights if name.startswith(f"{text}0.")]:
        weights.setdefault(name.replace(f"{text}0.", f"{text}{last}."), weights[name].clone())
    weights["paligemma_with_expert.paligemma.model.language_model.norm.weight"] = torch.ones(4)
    weights["paligemma_with_expert.paligemma.lm_head.weight"] = torch.ones(3, 4)
    weights["paligemma_with_expert.gemma_expert.lm_head.weight"] = torch.ones(3, 4)
    return weights


@dataclass
class Written:
    """A checkpoint's folder, its policy, and the statistics of state and action."""

    folder: Path
    policy: Pi0Policy
    stats: dict[str, dict[str, np.ndarray]]

    def edit(self, name: str, change: Callable[[Any], None]) -> None:
        """Change one of its JSON files."""
        document = json.loads((self.folder / name).read_text())
        change(document)
        (self.folder / name).write_text(json.dumps(document))


def make_stats() -> dict[str, dict[str, np.ndarray]]:
    rng, stats = np.random.default_rng(1), {}
    for key in ("observation.state", "action"):
        mean, half = rng.normal(size=(2, len(JOINTS))) * 20
        half = np.abs(half) + 5
        values = {"mean": mean, "std": half / 2, "q01": mean - half, "q99": mean + half}
        stats[key] = {name: value.astype(np.float32) for name, value in values.items()}
    return stats


def write_lerobot(folder: Path, variant: str = "pi05", rename: Callable[[str], str] = "model.{}".format) -> Written:
    """As LeRobot 0.6 saves a policy; the tokenizer lies in it."""
    folder.mkdir(parents=True)
    config, stats = tiny_config(variant), make_stats()
    policy = tiny_policy(config)
    save_file({rename(name): value for name, value in stored_weights(policy).items()}, folder / "model.safetensors")
    pictures = {f"observation.images.{key}": {"type": "VISUAL", "shape": [3, 48, 64]} for key in CAMERAS}
    numbers = {"shape": [len(JOINTS)]}
    mode = "QUANTILES" if variant == "pi05" else "MEAN_STD"
    modes = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    document = {
        "type": variant,
        "input_features": pictures | {"observation.state": {"type": "STATE", **numbers}},
        "output_features": {"action": {"type": "ACTION", **numbers}},
        "normalization_mapping": modes,
        "chunk_size": HORIZON,
        "num_inference_steps": config.num_steps,
        "image_resolution": [SIDE, SIDE],
    }
    (folder / "config.json").write_text(json.dumps(document))
    save_arrays({f"{k}.{n}": x for k, each in stats.items() for n, x in each.items()}, folder / "stats.safetensors")
    normalizer = {"config": {"eps": 1e-8, "norm_map": modes}, "state_file": "stats.safetensors"}
    tokenizer = {"tokenizer_name": "google/paligemma-3b-pt-224", "max_length": 64}
    steps = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "relative_actions_processor", "config": {"enabled": False}},
        {"registry_name": "normalizer_processor", **normalizer},
        {"registry_name": "tokenizer_processor", "config": tokenizer},
    ]
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    after = [{"registry_name": "unnormalizer_processor", **normalizer}]
    (folder / "policy_postprocessor.json").write_text(json.dumps({"steps": after}))
    (folder / "tokenizer").mkdir()
    tiny_tokenizer().save(str(folder / "tokenizer" / "tokenizer.json"))
    return Written(folder, policy, stats)


def write_openpi(folder: Path, variant: str = "pi0", assets: tuple[str, ...] = ("robot/pick",)) -> Written:
    """As openpi's converter writes it, statistics padded to 32 numbers."""
    folder.mkdir(parents=True)
    policy, stats = tiny_policy(tiny_config(variant, time_rule="sum")), make_stats()
    weights = stored_weights(policy)
    head, embedding = (f"{NAMES['embed_tokens.']}weight", "paligemma_with_expert.paligemma.lm_head.weight")
    weights[embedding] = weights.pop(head)
    save_file(weights, folder / "model.safetensors")
    document = {"action_dim": 32, "action_horizon": HORIZON, "paligemma_variant": "gemma_2b", "precision": "float32"}
    (folder / "config.json").write_text(json.dumps(document))
    keys = {"state": stats["observation.state"], "actions": stats["action"]}
    padded = {k: {n: [*x.tolist(), *[0.0] * (32 - len(x))] for n, x in each.items()} for k, each in keys.items()}
    for asset in assets:
        (folder / "assets" / asset).mkdir(parents=True)
        (folder / "assets" / asset / "norm_stats.json").write_text(json.dumps({"norm_stats": padded}))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return Written(folder, policy, stats)


def write_space(path: Path, **changes: Any) -> Path:
    """Degrees, a gripper of 0 to 100, both cameras, 20 Hz."""
    numbers = [
        {"type": "joints", "joints": list(JOINTS[:-1]), "unit": "deg"},
        {"type": "joint", "joint": JOINTS[-1], "range": [0, 100]},
    ]
    cameras = [{"key": key, "camera": camera} for key, camera in CAMERAS.items()]
    document = {"state": numbers, "action": numbers, "cameras": cameras, "chunk_dt_s": 0.05}
    path.write_text(yaml.safe_dump(document | changes))
    return path
