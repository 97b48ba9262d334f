"""A Llama layer in parts, over any module with its names: keys and values can be kept, or come from elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.modules.layers.heads import attend_shared, turned_heads
from vla_ros.policies.modules.layers.packing import PackedLayer, add_gated_mlp, project_qkv
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
    attn, rows = layer.self_attn, rms_norm_of(layer.input_layernorm, x)
    if packed is not None and num_rows == x.shape[1]:
        norm = None if packed.head_norms is None else (packed.head_norms, attn.q_norm.variance_epsilon)
        queries, keys, values = turned_heads(packed.qkv, rows, attn.head_dim, rotary, norm)
    else:
        projected = project_qkv(attn, packed, rows, num_rows)
        queries, keys, values = (heads.unflatten(-1, (-1, attn.head_dim)) for heads in projected)
        if hasattr(attn, "q_norm"):
            queries, keys = rms_norm_of(attn.q_norm, queries), rms_norm_of(attn.k_norm, keys)
        queries, keys = apply_rotary(queries, rotary.last(num_rows)), apply_rotary(keys, rotary)
    return Heads(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))


def attend(heads: Heads, mask: Bool[Tensor, "batch 1 #rows all_rows"] | Tensor) -> Float[Tensor, "batch rows inner"]:
    """What the heads give, side by side: before the output projection."""
    is_shared, on_cpu = heads.queries.shape[1] != heads.keys.shape[1], mask.device.type == "cpu"
    if is_shared and mask.dtype != torch.bool and len(heads.queries) == 1 and not on_cpu:
        return attend_shared(*heads, mask)
    out = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=is_shared)
    return out.transpose(1, 2).flatten(-2)


def finish_layer(
    layer: Any, packed: PackedLayer | None, x: Float[Tensor, "batch rows hidden"], attended: Tensor
) -> Float[Tensor, "batch rows hidden"]:
    """``x``, what the heads gave, and what the MLP makes of both."""
    x = x + (layer.self_attn.o_proj if packed is None else packed.out)(attended)
    return add_gated_mlp(layer.mlp, packed, x, rms_norm_of(layer.post_attention_layernorm, x))
