"""The forward pass of Gemma 1 and 2 over the modules of transformers, for fixed shapes.

Same values as transformers' own eager forward (to rounding), without what a policy doesn't need: no caches, no masks of
its own, no host synchronisation, no rows of the last layer that nobody reads. Gemma 2 (arXiv 2408.00118, section 2)
differs by norms after attention and MLP, a query scale of its own and squashed attention scores; its sliding window is
wider than any prefix. Only parameters are read, no buffers: a model that was filled from a file has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla_ros.policies.modules.layers.packing import PackedLayer, gated_mlp, project_qkv
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, rms_norm


class LayerNorms(NamedTuple):
    """What a layer's RMS norms multiply by, ``1 + weight`` in float32; None where Gemma 1 has no such norm."""

    before_attention: Float[Tensor, "hidden"]
    after_attention: Float[Tensor, "hidden"] | None
    before_mlp: Float[Tensor, "hidden"]
    after_mlp: Float[Tensor, "hidden"] | None


@dataclass(frozen=True)
class PackedGemmaLayer(PackedLayer):
    """With the norms as they are applied."""

    norms: LayerNorms


def embed_prefix(
    language_model: nn.Module,
    input_ids: Int64[Tensor, "batch seq"],
    is_image: Bool[Tensor, "batch seq 1"],
    image_features: Float[Tensor, "batch image_tokens hidden"],
    registers: Float[Tensor, "registers hidden"],
) -> Float[Tensor, "batch prefix hidden"]:
    """What enters layer 0: token and register embeddings times ``sqrt(hidden)``, image features as they are."""
    table = language_model.embed_tokens.weight
    known = input_ids.masked_fill(is_image.squeeze(-1), 0)  # an image token's id may lie beyond the table
    tokens = F.embedding(known, table)
    x = torch.cat((tokens, registers.to(table.dtype).expand(len(tokens), -1, -1)), dim=1)
    scale = torch.full((), x.shape[-1] ** 0.5, dtype=x.dtype, device=x.device)  # rounded as the embeddings are
    mask = F.pad(is_image, (0, 0, 0, registers.shape[0]))
    return (x * scale).masked_scatter(mask, image_features.to(x.dtype))


def gemma_norm(
    x: Float[Tensor, "batch rows hidden"], weight: Float[Tensor, "hidden"] | None, eps: float
) -> Float[Tensor, "batch rows hidden"]:
    """RMS norm computed in float32 to the end, returned as ``x`` came; without ``weight``, ``x`` itself."""
    return x if weight is None else rms_norm(x.float(), weight, eps).to(x.dtype)


def norm_weight(norm: nn.Module) -> Float[Tensor, "hidden"]:
    """What one of the model's RMS norms multiplies by."""
    return 1.0 + norm.weight.float()


def layer_norms(layer: nn.Module) -> LayerNorms:
    """Those of one layer; what is called ``post_attention_layernorm`` comes before the MLP in Gemma 1."""
    first, second = norm_weight(layer.input_layernorm), norm_weight(layer.post_attention_layernorm)
    if not hasattr(layer, "pre_feedforward_layernorm"):
        return LayerNorms(first, None, second, None)
    third, fourth = layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
    return LayerNorms(first, second, norm_weight(third), norm_weight(fourth))


def run_layer(
    layer: nn.Module,
    packed: PackedGemmaLayer | None,
    x: Float[Tensor, "batch prefix hidden"],
    rotary: Rotary,
    bias: Float[Tensor, "batch 1 grouped_rows prefix"],
    num_rows: int,
) -> Float[Tensor, "batch rows hidden"]:
    """One decoder layer, of which only the last ``num_rows`` positions are computed."""
    norms = layer_norms(layer) if packed is None else packed.norms
    attn, eps = layer.self_attn, layer.input_layernorm.eps
    projected = project_qkv(attn, packed, gemma_norm(x, norms.before_attention, eps), num_rows)
    queries, keys, values = (heads.unflatten(-1, (-1, attn.head_dim)) for heads in projected)
    queries, keys = apply_rotary(queries, rotary.last(num_rows)), apply_rotary(keys, rotary)
    attended = attn.o_proj(_attend(attn, queries, keys.transpose(1, 2), values.transpose(1, 2), bias))
    x = x[:, -num_rows:] + gemma_norm(attended, norms.after_attention, eps)
    return x + gemma_norm(gated_mlp(layer.mlp, packed, gemma_norm(x, norms.before_mlp, eps)), norms.after_mlp, eps)


def _attend(
    attn: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor
) -> Float[Tensor, "batch rows inner"]:
    """Query heads that share a key head become rows of it, side by side: nothing is copied for them."""
    rows_and_groups = queries.shape[1], attn.num_key_value_groups
    grouped = queries.unflatten(2, (-1, attn.num_key_value_groups)).transpose(1, 2).flatten(2, 3)
    bias = bias[:, :, -grouped.shape[2] :]
    cap = getattr(attn, "attn_logit_softcapping", None)
    if cap is None:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias, scale=attn.scaling)
    else:
        scores = torch.tanh(grouped @ keys.transpose(-1, -2) * (attn.scaling / cap)) * cap + bias
        out = F.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype) @ values
    return out.unflatten(2, rows_and_groups).transpose(1, 2).flatten(2)


def grouped_bias(
    mask: Bool[Tensor, "batch 1 prefix prefix"], num_groups: int, dtype: torch.dtype
) -> Float[Tensor, "batch 1 grouped_rows prefix"]:
    """What is added to attention scores, made once for all layers; each row as often as heads share a key head."""
    bias = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    return bias.unsqueeze(3).expand(-1, -1, -1, num_groups, -1).flatten(2, 3)
