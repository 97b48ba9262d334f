"""Prefix and steps composed to actions, plainly and as the published reference does it; no step keeps anything."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.modules.action_expert.dit import embed_time
from vla_ros.policies.pi.reference.prefix import Rotary, encode_prefix, make_rotary, rotate
from vla_ros.policies.utils.transformers import inverse_frequencies, rms_norm


class Context(NamedTuple):
    """The prefix states that the cross blocks read, one [batch, slice, hidden] each, and which positions are valid."""

    states: list[Tensor]
    mask: Tensor


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


def _sample(policy: Any, observation: Any, states: list[Tensor], num_steps: int, noise: Tensor) -> Tensor:
    context = _context(policy, states, observation.policy_input.attention_mask)
    actions = noise
    for step in range(num_steps):
        time = torch.full((len(noise),), 1 - step / num_steps, device=noise.device)
        actions = actions - predict_suffix(policy, observation.state, context, actions, time) / num_steps
    return actions


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


def predict_suffix(policy: Any, state: Tensor, context: Context, noisy_actions: Tensor, time: Tensor) -> Tensor:
    """The velocity [batch, horizon, action] of noisy actions at flow times [batch]."""
    config, expert = policy.config, policy.config.action_expert_cfg
    dtype = policy.obs_registers.dtype
    x = policy.action_in_proj(noisy_actions.to(dtype))
    if config.suffix_add_pos_emb:
        x = x + policy.position_embedding_action
    if config.use_state:
        states = policy.state_in_proj(state.to(dtype))
        if config.suffix_add_pos_emb:
            states = states + policy.position_embedding_state
        x = torch.cat((states, x), dim=1)
    condition = F.silu(policy.time_mlp(embed_time(time, expert.hidden_size).to(dtype))).unsqueeze(1)
    rotary = None
    if expert.rotary_self_attn:
        positions = context.mask.sum(1, keepdim=True) + torch.arange(x.shape[1], device=x.device)
        inverse = inverse_frequencies(expert.head_dim, expert.rope_theta, x.device)
        rotary = make_rotary(positions[..., None].float() * inverse)
    to_read = iter(context.states)
    for block in policy.action_expert.blocks:
        x = _block(block, x, condition, next(to_read) if block.is_cross else None, context.mask, rotary)
    x = rms_norm(x, None, expert.rms_norm_eps)
    return policy.action_out_proj(x[:, -config.action_horizon :])


def _block(
    block: Any, x: Tensor, condition: Tensor, context: Tensor | None, mask: Tensor, rotary: Rotary | None
) -> Tensor:
    shift, scale, gate = block.ada_mod1.modulation(condition).chunk(3, dim=-1)
    x = x + gate * _attention(block, rms_norm(x, None, block.eps) * (1 + scale) + shift, context, mask, rotary)
    shift, scale, gate = block.ada_mod2.modulation(condition).chunk(3, dim=-1)
    normed = rms_norm(x, None, block.eps) * (1 + scale) + shift
    mlp = block.mlp
    return x + gate * mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))


def _attention(block: Any, x: Tensor, context: Tensor | None, mask: Tensor, rotary: Rotary | None) -> Tensor:
    attn = block.attn
    source = x if context is None else rms_norm(context, None, block.eps)
    queries = attn.heads(attn.q_proj(x), "q_norm").transpose(1, 2)
    keys = attn.heads(attn.k_proj(source), "k_norm").transpose(1, 2)
    values = attn.heads(attn.v_proj(source)).transpose(1, 2)
    if context is None and rotary is not None:
        queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    return attn.o_proj(attn.attend(queries, keys, values, None if context is None else mask[:, None, None]))
