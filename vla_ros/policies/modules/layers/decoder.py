"""A pre-norm decoder layer over the modules of transformers: Llama's, and Qwen's, which also norms queries and keys."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.modules.layers.packing import PackedLayer, gated_mlp, project_qkv
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, rms_norm


def run_layer(
    layer: nn.Module,
    packed: PackedLayer | None,
    x: Float[Tensor, "batch prefix hidden"],
    rotary: Rotary,
    mask: Bool[Tensor, "batch 1 prefix prefix"],
    num_rows: int,
) -> Float[Tensor, "batch rows hidden"]:
    """One decoder layer, of which only the last ``num_rows`` positions are computed."""
    attn = layer.self_attn
    projected = project_qkv(attn, packed, rms_norm_of(layer.input_layernorm, x), num_rows)
    queries, keys, values = (heads.unflatten(-1, (-1, attn.head_dim)) for heads in projected)
    if hasattr(attn, "q_norm"):
        queries, keys = rms_norm_of(attn.q_norm, queries), rms_norm_of(attn.k_norm, keys)
    out = F.scaled_dot_product_attention(
        apply_rotary(queries, rotary.last(num_rows)).transpose(1, 2),
        apply_rotary(keys, rotary).transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask[:, :, -num_rows:],
        enable_gqa=attn.num_key_value_groups > 1,
    )
    x = x[:, -num_rows:] + attn.o_proj(out.transpose(1, 2).flatten(-2))
    return x + gated_mlp(layer.mlp, packed, rms_norm_of(layer.post_attention_layernorm, x))


def rms_norm_of(norm: nn.Module, x: Tensor) -> Tensor:
    """One of the model's own RMS norms."""
    return rms_norm(x, norm.weight, norm.variance_epsilon)
