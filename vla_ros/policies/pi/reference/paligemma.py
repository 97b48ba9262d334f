"""The prefix of PaliGemma 1 and 2: a SigLIP tower and Gemma layers, which scale embeddings and norm with ``1 +
weight``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.pi.reference.parts import (
    LayerOutputs,
    Rotary,
    add_registers,
    join_heads,
    normalize_pixels,
    project,
    rms_norm,
    rotate,
    run_layers,
    siglip,
    text_rotary,
)


def run_prefix(policy: Any, inputs: Any) -> list[LayerOutputs]:
    model, registers = policy.vlm_bridge.causal_model.model, policy.obs_registers
    text = model.language_model
    is_image = inputs.input_ids == policy.vlm_bridge.image_token_id
    table = text.embed_tokens.weight
    x = add_registers(F.embedding(inputs.input_ids.masked_fill(is_image, 0), table), registers) * _root(table)
    x = x.masked_scatter(F.pad(is_image, (0, len(registers))).unsqueeze(-1), _vision(model, policy.config, inputs))
    rotary = text_rotary(text.config, inputs.position_ids)
    bias = torch.zeros_like(inputs.prefix_mask, dtype=x.dtype).masked_fill(~inputs.prefix_mask, -torch.inf)[:, None]
    return run_layers(text.layers, x, lambda layer, states: _layer(layer, states, rotary, bias))


def _root(table: Tensor) -> Tensor:
    """The square root of the hidden size, rounded as the embeddings are."""
    return torch.full((), table.shape[1] ** 0.5, dtype=table.dtype, device=table.device)


def _vision(model: Any, config: Any, inputs: Any) -> Tensor:
    positions = model.vision_tower.embeddings.position_embedding.weight
    patches = inputs.pixel_values.reshape(-1, len(positions), inputs.pixel_values.shape[-1])
    pixels = normalize_pixels(patches, config.image_mean, config.image_std)
    return model.multi_modal_projector(siglip(model.vision_tower, pixels, positions))


def gemma_norm(norm: Any, x: Tensor) -> Tensor:
    return rms_norm(x.float(), 1.0 + norm.weight.float(), norm.eps).to(x.dtype)


def _layer(layer: Any, x: Tensor, rotary: Rotary, bias: Tensor) -> LayerOutputs:
    attended, keys, values = _attention(layer.self_attn, gemma_norm(layer.input_layernorm, x), rotary, bias)
    if not hasattr(layer, "pre_feedforward_layernorm"):  # Gemma 1
        x = x + attended
        return LayerOutputs(x + layer.mlp(gemma_norm(layer.post_attention_layernorm, x)), keys, values)
    x = x + gemma_norm(layer.post_attention_layernorm, attended)
    out = layer.mlp(gemma_norm(layer.pre_feedforward_layernorm, x))
    return LayerOutputs(x + gemma_norm(layer.post_feedforward_layernorm, out), keys, values)


def _attention(attn: Any, x: Tensor, rotary: Rotary, bias: Tensor) -> LayerOutputs:
    queries, keys, values = project(attn, x, attn.head_dim)
    queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    cap = getattr(attn, "attn_logit_softcapping", None)
    gqa = attn.num_key_value_groups > 1
    if cap is None:
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=attn.scaling, enable_gqa=gqa)
    else:
        groups = keys.shape[1], attn.num_key_value_groups
        grouped = queries.unflatten(1, groups)
        scores = torch.tanh(grouped @ keys.unsqueeze(2).mT * (attn.scaling / cap)) * cap + bias[:, None]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        out = (weights @ values.unsqueeze(2)).flatten(1, 2)
    return LayerOutputs(attn.o_proj(join_heads(out)), keys, values)
