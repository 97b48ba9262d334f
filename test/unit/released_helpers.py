"""A very small released run with everything beside it that an import needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from policy_helpers import HORIZON, JOINTS, TASKS, pi_config, vlm_config
from tokenizers import Tokenizer

from vla_ros.policies.fill import build_policy
from vla_ros.policies.modules.vlm_bridge.qwen.processor import train_tokenizer
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.released.config import FIXED_IN_EXPERT, OURS, PROCESSOR_TARGETS
from vla_ros.policies.pi.released.weights import CAUSAL_MODEL, RENAMED
from vla_ros.strict import config_to_dict

ROBOT = Path(__file__).parents[1] / "data" / "three_joints.yaml"
PROCESSORS = {vlm_type: target for target, vlm_type in PROCESSOR_TARGETS.items()}
PROCESSOR = PROCESSORS["Qwen3VLForConditionalGeneration"]
MAX_LENGTH = 80
HEAD = "vlm_bridge.causal_model.lm_head.weight"


def tied_config(tied: bool = True) -> PiConfig:
    """Of a policy whose config.json says so; large weights, so that a wrong one shows in the actions."""
    config = pi_config()
    return replace(config, vlm_config={**vlm_config(), "tie_word_embeddings": tied, "architectures": [config.vlm_type]})


def released_cfg(config: PiConfig) -> dict[str, Any]:
    """``cfg.yaml`` as releases have it."""
    policy = {key: value for key, value in config_to_dict(config).items() if key not in OURS}
    policy["action_expert_cfg"] |= FIXED_IN_EXPERT | {"max_position_embeddings": 8192}
    transform = {"_target_": PROCESSORS[config.vlm_type], "model_id": "vlm"}
    policy |= {
        "_target_": "vla_scratch.policies.pi.policy.PiPolicy",
        "model_id": "vlm",
        "transforms": [transform | {"max_length": MAX_LENGTH, "padding": "max_length"}],
    }
    return {"policy": policy, "data": {"action_horizon": config.action_horizon, "state_history": config.state_history}}


def released_weights(config: PiConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in bfloat16 under its old names, with the output embedding also where it is tied."""
    torch.manual_seed(seed)
    policy = build_policy(config)
    with torch.no_grad():
        for parameter in policy.action_expert.parameters():
            parameter.normal_(0.0, 0.3)
    names = dict(policy.named_parameters(remove_duplicate=False))
    weights = {name: value.detach().to(torch.bfloat16) for name, value in names.items()}
    for then, now in RENAMED.get(config.vlm_type, ()):
        weights = {name.replace(CAUSAL_MODEL + now, CAUSAL_MODEL + then): x for name, x in weights.items()}
    return weights


def released_stats(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Statistics under the names releases use."""
    rng = np.random.default_rng(seed)
    stats = {}
    for key, horizon in (("observation.state", 1), ("action_chunk.actions", HORIZON + 2)):
        low, high = np.sort(rng.normal(size=(2, horizon, len(JOINTS))), axis=0)
        stats[key] = {"mean_": (low + high) / 2, "std_": (high - low) / 4, "q01": low, "q99": high}
    return stats


def write_run(
    folder: Path,
    config: PiConfig | None = None,
    weights: dict[str, torch.Tensor] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """``folder/run`` with two checkpoints (the later one counts) and statistics, and ``folder/vlm`` beside it."""
    config = config or tied_config()
    run, vlm = folder / "run", folder / "vlm"
    for path in (run / "checkpoint_9", run / "checkpoint_10", vlm):
        path.mkdir(parents=True)
    (run / "cfg.yaml").write_text(yaml.safe_dump(released_cfg(config)))
    (run / "checkpoint_9" / "model.pt").write_bytes(b"an older one")
    torch.save(weights or released_weights(config), run / "checkpoint_10" / "model.pt")
    np.savez_compressed(run / "stats.npz", **released_stats())
    (vlm / "config.json").write_text(json.dumps(config.vlm_config))
    (vlm / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 256, "longest_edge": 512}}')
    (tokenizer or train_tokenizer(TASKS, vocab_size=400)).save(str(vlm / "tokenizer.json"))
    return run


def edit_cfg(run: Path, change: Any) -> None:
    """``change`` the parsed cfg.yaml in place."""
    document = yaml.safe_load((run / "cfg.yaml").read_text())
    change(document)
    (run / "cfg.yaml").write_text(yaml.safe_dump(document))
