"""Prefix and steps composed to actions, plainly and as the published reference does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vla_ros.policies.pi.reference import paligemma, qwen, smolvlm
from vla_ros.policies.pi.reference.parts import Prefix
from vla_ros.policies.pi.reference.suffix import Context, predict_suffix

PREFIXES = {
    "Qwen3VLForConditionalGeneration": qwen.run_prefix,
    "PaliGemmaForConditionalGeneration": paligemma.run_prefix,
    "SmolVLMForConditionalGeneration": smolvlm.run_prefix,
}


def encode_prefix(policy: Any, inputs: Any) -> Prefix:
    """Every position of every text layer."""
    return PREFIXES[policy.config.vlm_type](policy, inputs)


def plain_actions(policy: Any, observation: Any, num_steps: int, noise: Tensor) -> Tensor:
    """Actions [batch, horizon, action] from noise, by the plain composition."""
    prefix = encode_prefix(policy, observation.policy_input)
    num_read = policy.config.action_expert_cfg.num_hidden_layers
    recorded = [outputs.states for outputs in prefix.layers[-num_read:]]
    return _sample(policy, observation.state, _context(policy, recorded, prefix.pad_mask), num_steps, noise)


def as_written_actions(policy: Any, observation: Any, num_steps: int, noise: Tensor) -> Tensor:
    """The same actions, with what the published reference computes besides and nobody reads."""
    inputs = observation.policy_input
    prefix = encode_prefix(policy, inputs)
    num_read = policy.config.action_expert_cfg.num_hidden_layers
    hidden_states, _, _ = (torch.stack(outputs, dim=1) for outputs in zip(*prefix.layers, strict=True))
    tokens = prefix.layers[-1].states[:, : inputs.input_ids.shape[1]]
    policy.vlm_bridge.logits(tokens).float()  # for a cross-entropy over every token
    recorded = list(hidden_states[:, -num_read:].unbind(1))
    return _sample(policy, observation.state, _context(policy, recorded, prefix.pad_mask), num_steps, noise)


def _context(policy: Any, recorded: list[Tensor], pad_mask: Tensor) -> Context:
    """The slice that the expert reads, and for each cross block the layer that it reads."""
    if policy.config.expert_only_use_register:
        num_registers = len(policy.obs_registers)
        recorded = [states[:, -num_registers:] for states in recorded]
        pad_mask = pad_mask[:, -num_registers:]
    if policy.config.action_expert_cfg.only_attend_to_final_layer:
        recorded = recorded[-1:] * len(recorded)
    return Context(recorded, pad_mask)


def _sample(policy: Any, state: Tensor, context: Context, num_steps: int, noise: Tensor) -> Tensor:
    actions = noise
    for step in range(num_steps):
        time = torch.full((len(noise),), 1 - step / num_steps, device=noise.device)
        actions = actions - predict_suffix(policy, state, context, actions, time) / num_steps
    return actions
