"""Attention's inputs as GPUs take them: masks as numbers in aligned rows, heads out of packed projections, heads that
are shared without copies of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vla_ros.policies.modules.layers.packing import PackedLinear
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, rms_norm

ALIGNMENT = 16
"""In elements: where the rows of a mask begin. Else torch pads it in each call, by two kernels."""


def additive_mask(
    mask: Bool[Tensor, "*batch rows slice"], dtype: torch.dtype, repeats: int = 1
) -> Float[Tensor, "*batch repeated_rows slice"]:
    """What is added to attention scores, 0 where ``mask`` is True and else -inf, each row ``repeats`` times.

    As numbers, for attention would turn truth values into them in every layer; no kernel that shares heads takes those.
    """
    length = mask.shape[-1]
    padded = F.pad(mask, (0, -length % ALIGNMENT), value=True)
    bias = torch.zeros_like(padded, dtype=dtype).masked_fill(~padded, -torch.inf)
    return bias.repeat_interleave(repeats, dim=-2)[..., :length] if repeats > 1 else bias[..., :length]


def widened(bias: Float[Tensor, "*batch rows slice"], num: int) -> Float[Tensor, "*batch rows more"]:
    """``bias`` with ``num`` columns more, which are seen, in aligned rows."""
    length = bias.shape[-1] + num
    return F.pad(bias, (0, num + -length % ALIGNMENT))[..., :length]


def aligned(bias: Float[Tensor, "*batch rows slice"]) -> Float[Tensor, "*batch rows slice"]:
    """``bias`` in aligned rows."""
    return widened(bias, 0)


def turned_heads(
    packed: PackedLinear,
    x: Float[Tensor, "batch rows dim"],
    head_dim: int,
    rotary: Rotary,
    norm: tuple[Float[Tensor, "heads head_dim"], float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [batch, rows, heads, head_dim] of packed projections, the first two turned as one.

    ``norm`` is the weight of their RMS norms, queries' heads first, and its constant; values are normed, too, and not
    used: all heads lie as a norm reads them, two thirds of them would be copied first.
    """
    projected = packed(x).unflatten(-1, (-1, head_dim))
    num_queries, num_keys = (size // head_dim for size in packed.sizes[:2])
    both = projected[:, :, : num_queries + num_keys]
    if norm is not None:
        weight, eps = norm
        both = rms_norm(projected, None, eps)[:, :, : num_queries + num_keys] * weight
    queries, keys = apply_rotary(both, rotary).split((num_queries, num_keys), dim=2)
    return queries, keys, projected[:, :, num_queries + num_keys :]


def attend_shared(
    queries: Float[Tensor, "1 heads rows head_dim"],
    keys: Float[Tensor, "1 kv_heads slice head_dim"],
    values: Float[Tensor, "1 kv_heads slice head_dim"],
    bias: Float[Tensor, "1 1 #rows slice"],
) -> Float[Tensor, "1 rows inner"]:
    """Attention of one sample whose query heads share key heads, each of which takes the place of a sample: its queries
    read the same memory again. A mask and shared heads together are no kernel's of torch."""
    num_groups = queries.shape[1] // keys.shape[1]
    grouped = queries[0].unflatten(0, (-1, num_groups))
    repeated = (heads[0][:, None].expand(-1, num_groups, -1, -1) for heads in (keys, values))
    out = F.scaled_dot_product_attention(grouped, *repeated, attn_mask=bias)
    return out.permute(2, 0, 1, 3).flatten(1)[None]
