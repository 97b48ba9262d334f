"""The weights and the tokenizer a run begins with: random and trained on the data, or those of a policy directory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.processor import WEIGHTS_FILE, open_policy

ACTION_POSITIONS = "position_embedding_action"


def random_policy(config: PiConfig, vision_pos_emb_init_gain: float) -> PiPolicy:
    """From random weights a place must weigh as much as a colour: at the usual 0.02 the backbone is slow to learn that
    what it sees is somewhere."""
    policy = PiPolicy(config)
    nn.init.normal_(policy.vlm_bridge.causal_model.model.visual.pos_embed.weight, std=vision_pos_emb_init_gain)
    return policy


def policy_from(config: PiConfig, policy_dir: Path) -> PiPolicy:
    """The policy of ``config`` with the weights of a policy directory. Its chunks may be longer than that one's were:
    each further action begins as the last known one.

    Raises ValueError for a directory that cannot be read, and weights of other names or shapes.
    """
    open_policy(policy_dir)
    policy, weights = PiPolicy(config), load_file(policy_dir / WEIGHTS_FILE)
    weights[ACTION_POSITIONS] = _longer(weights[ACTION_POSITIONS], config.action_horizon)
    own = dict(policy.named_parameters())
    wrong = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
    if wrong:
        raise ValueError(
            f"initial_policy {policy_dir}: weight {wrong[0]} doesn't fit the policy that is to be trained; expected "
            "the same policy group, but for action_horizon, which may be larger"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return policy


def tokenizer_of(policy_dir: Path) -> Tokenizer:
    """Its ids are what the weights know."""
    return open_policy(policy_dir).files.tokenizer


def _longer(positions: Tensor, horizon: int) -> Tensor:
    num_more = max(0, horizon - len(positions))
    return torch.cat((positions, positions[-1:].expand(num_more, -1)))
