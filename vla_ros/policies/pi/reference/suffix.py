"""The DiT action expert, one step: nothing is kept from step to step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.pi.reference.parts import (
    Rotary,
    frequencies,
    join_heads,
    make_rotary,
    rms_norm,
    rotate,
    split_heads,
)

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


class Context(NamedTuple):
    """The prefix states that the cross blocks read, one [batch, slice, hidden] each, and which positions are valid."""

    states: list[Tensor]
    mask: Tensor


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
    condition = F.silu(policy.time_mlp(_embed_time(time, expert.hidden_size).to(dtype))).unsqueeze(1)
    rotary = None
    if expert.rotary_self_attn:
        positions = context.mask.sum(1, keepdim=True) + torch.arange(x.shape[1], device=x.device)
        inverse = frequencies(expert.head_dim, expert.rope_theta, x.device)
        rotary = make_rotary(positions[..., None].float() * inverse)
    num_cross = 0
    for block in policy.action_expert.blocks:
        states = None
        if block.is_cross:
            states, num_cross = context.states[num_cross], num_cross + 1
        x = _block(block, x, condition, states, context.mask, rotary)
    x = rms_norm(x, None, expert.rms_norm_eps)
    return policy.action_out_proj(x[:, -config.action_horizon :])


def _embed_time(time: Tensor, width: int) -> Tensor:
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float32, device=time.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = 2 * math.pi / period * time.float()[:, None]
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


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
    queries = _norm(attn, "q_norm", split_heads(attn.q_proj(x), attn.head_dim))
    keys = _norm(attn, "k_norm", split_heads(attn.k_proj(source), attn.head_dim))
    values = split_heads(attn.v_proj(source), attn.head_dim)
    if context is None and rotary is not None:
        queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    seen = None if context is None else mask[:, None, None]
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, enable_gqa=attn.gqa)
    return attn.o_proj(join_heads(out))


def _norm(attn: Any, name: str, x: Tensor) -> Tensor:
    if attn.qk_norm == "none":
        return x
    return rms_norm(x, None, attn.eps) if attn.qk_norm == "rmsnorm" else getattr(attn, name)(x)
