"""Query and key norms and the rotary embedding of a packed projection, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


@triton.jit
def _rotate_kernel(
    x,
    cos,
    sin,
    query_weight,
    key_weight,
    out,
    x_stride,
    angle_stride,
    angle_rows,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_QUERIES: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    NORMED: tl.constexpr,
):
    row = tl.program_id(0)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    dims = tl.arange(0, BLOCK_DIM)
    swapped_dims = tl.where(dims < DIM // 2, dims + DIM // 2, dims - DIM // 2)
    inside = (heads[:, None] < NUM_HEADS) & (dims[None, :] < DIM)
    at = x + row * x_stride + heads[:, None] * DIM
    value = tl.load(at + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    swapped = tl.load(at + swapped_dims[None, :], mask=inside, other=0.0).to(tl.float32)
    is_dim = dims < DIM
    if NORMED:
        inverse = tl.rsqrt(tl.sum(value * value, axis=1) / DIM + eps)[:, None]
        is_query = heads[:, None] < NUM_QUERIES
        of_queries = tl.load(query_weight + dims, mask=is_dim, other=0.0).to(tl.float32)[None, :]
        of_keys = tl.load(key_weight + dims, mask=is_dim, other=0.0).to(tl.float32)[None, :]
        value = value * inverse * tl.where(is_query, of_queries, of_keys)
        of_queries = tl.load(query_weight + swapped_dims, mask=is_dim, other=0.0).to(tl.float32)[None, :]
        of_keys = tl.load(key_weight + swapped_dims, mask=is_dim, other=0.0).to(tl.float32)[None, :]
        swapped = swapped * inverse * tl.where(is_query, of_queries, of_keys)
    angle_at = (row % angle_rows) * angle_stride + dims
    turned = value * tl.load(cos + angle_at, mask=is_dim, other=0.0)[None, :]
    turned += swapped * tl.load(sin + angle_at, mask=is_dim, other=0.0)[None, :]
    of_query = (row * NUM_QUERIES + heads) * DIM
    of_key = (tl.num_programs(0) * NUM_QUERIES + row * (NUM_HEADS - NUM_QUERIES) + heads - NUM_QUERIES) * DIM
    out_at = out + tl.where(heads < NUM_QUERIES, of_query, of_key)[:, None] + dims[None, :]
    tl.store(out_at, turned.to(out.dtype.element_ty), mask=inside)


def rotate_heads(
    x: Float[Tensor, "rows packed"],
    rotary: tuple[Float[Tensor, "angles dim"], Float[Tensor, "angles dim"]],
    num_heads: int,
    num_queries: int,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> tuple[Float[Tensor, "rows queries dim"], Float[Tensor, "rows keys dim"]]:
    """Queries and keys of a projection that begins with them, ``num_heads`` heads with ``num_queries`` queries first:
    RMS norms with the weights of ``norms``, then turned. Row ``i`` has the angles of row ``i % angles``."""
    cos, sin = rotary
    num_rows, dim = x.shape[0], cos.shape[-1]
    out = torch.empty(num_rows * num_heads, dim, dtype=x.dtype, device=x.device)
    block_heads = min(8, triton.next_power_of_2(num_heads))
    _rotate_kernel[(num_rows, triton.cdiv(num_heads, block_heads))](
        x,
        cos,
        sin,
        *(norms or (None, None)),
        out,
        x.stride(0),
        cos.stride(0),
        cos.shape[0],
        eps,
        NUM_HEADS=num_heads,
        NUM_QUERIES=num_queries,
        DIM=dim,
        BLOCK_DIM=triton.next_power_of_2(dim),
        BLOCK_HEADS=block_heads,
        NORMED=norms is not None,
        num_warps=4,
    )
    queries, keys = out.split((num_rows * num_queries, num_rows * (num_heads - num_queries)))
    return queries.view(num_rows, num_queries, dim), keys.view(num_rows, num_heads - num_queries, dim)
