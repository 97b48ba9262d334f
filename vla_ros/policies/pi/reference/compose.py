"""Prefix and steps composed to actions, plainly and as the published reference does it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.pi.reference import paligemma, qwen, smolvlm
from vla_ros.policies.pi.reference.parts import LayerOutputs
from vla_ros.policies.pi.reference.suffix import Context, predict_suffix

PREFIXES = {
    "Qwen3VLForConditionalGeneration": qwen.run_prefix,
    "PaliGemmaForConditionalGeneration": paligemma.run_prefix,
    "SmolVLMForConditionalGeneration": smolvlm.run_prefix,
}


def encode_prefix(policy: Any, inputs: Any) -> list[LayerOutputs]:
    """Every position of every text layer."""
    return PREFIXES[policy.config.vlm_type](policy, inputs)


def plain_actions(policy: Any, observation: Any, num_steps: int, noise: Tensor) -> Tensor:
    """Actions [batch, horizon, action] from noise, by the plain composition."""
    states = [outputs.states for outputs in encode_prefix(policy, observation.policy_input)]
    return _sample(policy, observation, states, num_steps, noise)


def as_written_actions(policy: Any, observation: Any, num_steps: int, noise: Tensor) -> Tensor:
    """The same actions, with what the published reference computes besides and nobody reads."""
    inputs = observation.policy_input
    layers = encode_prefix(policy, inputs)
    hidden_states, _, _ = (torch.stack(outputs, dim=1) for outputs in zip(*layers, strict=True))
    policy.vlm_bridge.logits(layers[-1].states[:, : inputs.input_ids.shape[1]]).float()  # for every token's loss
    return _sample(policy, observation, list(hidden_states.unbind(1)), num_steps, noise)


def _context(policy: Any, states: list[Tensor], attention_mask: Tensor) -> Context:
    """The slice that the expert reads, and for each cross block the layer that it reads."""
    num_registers, expert = len(policy.obs_registers), policy.config.action_expert_cfg
    recorded = states[-expert.num_hidden_layers :]
    pad_mask = F.pad(attention_mask, (0, num_registers), value=True)
    if policy.config.expert_only_use_register:
        recorded = [states[:, -num_registers:] for states in recorded]
        pad_mask = pad_mask[:, -num_registers:]
    if expert.only_attend_to_final_layer:
        recorded = recorded[-1:] * len(recorded)
    return Context(recorded, pad_mask)


def _sample(policy: Any, observation: Any, states: list[Tensor], num_steps: int, noise: Tensor) -> Tensor:
    context = _context(policy, states, observation.policy_input.attention_mask)
    actions = noise
    for step in range(num_steps):
        time = torch.full((len(noise),), 1 - step / num_steps, device=noise.device)
        actions = actions - predict_suffix(policy, observation.state, context, actions, time) / num_steps
    return actions
