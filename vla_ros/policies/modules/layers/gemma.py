"""Gemma's layers (arXiv 2403.08295, section 2): their arithmetic over any modules that have its names, and such modules
for policies that need no model of transformers."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vla_ros.policies.modules.layers.heads import turned_heads
from vla_ros.policies.modules.layers.packing import (
    PackedLayer,
    PackedLinear,
    ReorderedLinear,
    add_gated_mlp,
    pack_layer,
    reorder_layer,
)
from vla_ros.policies.modules.layers.sizes import GemmaSizes
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, rms_norm

EPSILON, THETA = 1e-6, 10000.0


def gemma_norm(
    x: Float[Tensor, "*rows hidden"], weight: Float[Tensor, "hidden"] | None, eps: float
) -> Float[Tensor, "*rows hidden"]:
    """RMS norm computed in float32 to the end, returned as ``x`` came; without ``weight``, ``x`` itself."""
    return x if weight is None else rms_norm(x.float(), weight, eps).to(x.dtype)


def norm_weight(norm: nn.Module) -> Float[Tensor, "hidden"]:
    """What one of Gemma's RMS norms multiplies by."""
    return 1.0 + norm.weight.float()


def attend_grouped(
    queries: Float[Tensor, "batch rows heads head_dim"],
    keys: Float[Tensor, "batch kv_heads slice head_dim"],
    values: Float[Tensor, "batch kv_heads slice head_dim"],
    bias: Float[Tensor, "#batch 1 #grouped_rows slice"],
    scale: float,
    cap: float | None = None,
) -> Float[Tensor, "batch rows inner"]:
    """Query heads that share a key head become rows of it, side by side: nothing is copied for them.

    ``bias`` is added to the scores, which Gemma 2 squashes to ``cap`` before.
    """
    num_groups = queries.shape[2] // keys.shape[1]
    rows_and_groups = queries.shape[1], num_groups
    grouped = queries.unflatten(2, (-1, num_groups)).transpose(1, 2).flatten(2, 3)
    bias = bias[:, :, -grouped.shape[2] :]
    if cap is None:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias, scale=scale)
    else:
        scores = torch.tanh(grouped @ keys.transpose(-1, -2) * (scale / cap)) * cap + bias
        out = F.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype) @ values
    return out.unflatten(2, rows_and_groups).transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    """The weight of a norm, run by ``gemma_norm``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))


class AdaptiveNorm(nn.Module):
    """Scale, shift and gate of a norm without weight, from a condition of its width: Peebles & Xie, section 3.2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)


class Attention(nn.Module):
    """The projections; a layer whose output nobody reads ``only_reads``: keys and values."""

    def __init__(self, sizes: GemmaSizes, only_reads: bool) -> None:
        super().__init__()
        inner, kept = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
        if not only_reads:
            self.q_proj = nn.Linear(sizes.width, inner, bias=False)
            self.o_proj = nn.Linear(inner, sizes.width, bias=False)
        self.k_proj = nn.Linear(sizes.width, kept, bias=False)
        self.v_proj = nn.Linear(sizes.width, kept, bias=False)


class GatedMLP(nn.Module):
    """The weights of ``down(gelu(gate(x)) * up(x))``; run by ``gated_mlp``."""

    def __init__(self, sizes: GemmaSizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.mlp_dim, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.mlp_dim, bias=False)
        self.down_proj = nn.Linear(sizes.mlp_dim, sizes.width, bias=False)
        self.act_fn = partial(F.gelu, approximate="tanh")


class GemmaLayer(nn.Module):
    """One layer's modules, its norms adaptive or not; the last layer of a stack that is only read for its keys and
    values has no more than those take."""

    def __init__(self, sizes: GemmaSizes, adaptive: bool = False, only_reads: bool = False) -> None:
        super().__init__()
        make_norm = AdaptiveNorm if adaptive else RMSNorm
        self.head_dim, self.only_reads = sizes.head_dim, only_reads
        self.input_layernorm = make_norm(sizes.width)
        self.self_attn = Attention(sizes, only_reads)
        if not only_reads:
            self.post_attention_layernorm = make_norm(sizes.width)
            self.mlp = GatedMLP(sizes)
        self.packed: PackedLayer | None = None
        self.packed_reading: PackedLinear | None = None

    def pack_weights(self, few_rows: bool = False) -> None:
        """Lay the weights out for inference; ``few_rows``: for products of no more than a chunk's rows."""
        attn, kind = self.self_attn, ReorderedLinear if few_rows else PackedLinear
        if self.only_reads:
            self.packed_reading = kind((attn.k_proj, attn.v_proj))
            return
        self.packed = (reorder_layer if few_rows else pack_layer)(attn, self.mlp)

    def read(self, x: Float[Tensor, "batch rows width"]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer that only reads, [batch, rows, heads, head_dim], before they are turned."""
        if self.packed_reading is None:
            pair = self.self_attn.k_proj(x), self.self_attn.v_proj(x)
        else:
            pair = self.packed_reading.split(x)
        keys, values = (heads.unflatten(-1, (-1, self.head_dim)) for heads in pair)
        return keys, values

    def project_turned(self, x: Float[Tensor, "batch rows width"], rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned, and values [batch, rows, heads, head_dim]."""
        attn = self.self_attn
        if self.packed is not None:
            return turned_heads(self.packed.qkv, x, self.head_dim, rotary)
        parts = (attn.q_proj(x), attn.k_proj(x), attn.v_proj(x))
        queries, keys, values = (heads.unflatten(-1, (-1, self.head_dim)) for heads in parts)
        return apply_rotary(queries, rotary), apply_rotary(keys, rotary), values

    def encode(
        self, x: Float[Tensor, "batch rows width"], rotary: Rotary, bias: Float[Tensor, "#batch 1 #grouped_rows rows"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A layer with plain norms over rows that all see what ``bias`` lets them: the rows after it (before it, where
        it only reads), and its keys, turned, and values, heads before rows."""
        normed, rotary = gemma_norm(x, norm_weight(self.input_layernorm), EPSILON), rotary.like(x)
        if self.only_reads:
            keys, values = self.read(normed)
            return x, apply_rotary(keys, rotary).transpose(1, 2), values.transpose(1, 2)
        queries, keys, values = self.project_turned(normed, rotary)
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        x = x + self.project_out(attend_grouped(queries, keys, values, bias, self.head_dim**-0.5))
        normed = gemma_norm(x, norm_weight(self.post_attention_layernorm), EPSILON)
        return add_gated_mlp(self.mlp, self.packed, x, normed), keys, values

    def project_out(self, heads: Float[Tensor, "batch rows inner"]) -> Float[Tensor, "batch rows width"]:
        """The output projection."""
        return self.self_attn.o_proj(heads) if self.packed is None else self.packed.out(heads)
