"""A Llama layer in parts, over any module with its names: keys and values can be kept, or come from elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.modules.layers.packing import PackedLayer, gated_mlp, project_qkv
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, rms_norm


class Heads(NamedTuple):
    """What attention reads; the rows of queries are the last ones of the others."""

    queries: Float[Tensor, "batch heads rows head_dim"]
    keys: Float[Tensor, "batch kv_heads all_rows head_dim"]
    values: Float[Tensor, "batch kv_heads all_rows head_dim"]


def rms_norm_of(norm: nn.Module, x: Tensor) -> Tensor:
    """One of the model's own RMS norms."""
    return rms_norm(x, norm.weight, norm.variance_epsilon)


def read_heads(
    layer: Any, packed: PackedLayer | None, x: Float[Tensor, "batch all_rows hidden"], rotary: Rotary, num_rows: int
) -> Heads:
    """Queries of the last ``num_rows`` rows, keys and values of all, turned; Qwen's layers also norm the first two."""
    attn = layer.self_attn
    projected = project_qkv(attn, packed, rms_norm_of(layer.input_layernorm, x), num_rows)
    queries, keys, values = (heads.unflatten(-1, (-1, attn.head_dim)) for heads in projected)
    if hasattr(attn, "q_norm"):
        queries, keys = rms_norm_of(attn.q_norm, queries), rms_norm_of(attn.k_norm, keys)
    queries, keys = apply_rotary(queries, rotary.last(num_rows)), apply_rotary(keys, rotary)
    return Heads(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))


def attend(heads: Heads, mask: Bool[Tensor, "batch 1 #rows all_rows"] | Tensor) -> Float[Tensor, "batch rows inner"]:
    """What the heads give, side by side: before the output projection."""
    is_shared = heads.queries.shape[1] != heads.keys.shape[1]
    out = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=is_shared)
    return out.transpose(1, 2).flatten(-2)


def finish_layer(
    layer: Any, packed: PackedLayer | None, x: Float[Tensor, "batch rows hidden"], attended: Tensor
) -> Float[Tensor, "batch rows hidden"]:
    """``x``, what the heads gave, and what the MLP makes of both."""
    x = x + (layer.self_attn.o_proj if packed is None else packed.out)(attended)
    return x + gated_mlp(layer.mlp, packed, rms_norm_of(layer.post_attention_layernorm, x))
