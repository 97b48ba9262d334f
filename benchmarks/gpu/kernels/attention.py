"""Attention of a short suffix, with its query and key norms and its rotary embedding, one program a head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

import kernels

NORMS = {"none": 0, "rmsnorm": 1, "layernorm": 2}


@triton.jit
def _normed(x, swapped, weight, bias, dims, swapped_dims, eps, DIM: tl.constexpr, NORM: tl.constexpr):
    """``x`` and the same with its halves swapped, normalised along the last dimension."""
    if NORM == 2:
        mean = tl.sum(x, axis=1) / DIM
        centred = x - mean[:, None]
        inverse = tl.rsqrt(tl.sum(centred * centred, axis=1) / DIM + eps)[:, None]
        x = centred * inverse * tl.load(weight + dims)[None, :] + tl.load(bias + dims)[None, :]
        swapped = (swapped - mean[:, None]) * inverse
        swapped = swapped * tl.load(weight + swapped_dims)[None, :] + tl.load(bias + swapped_dims)[None, :]
    if NORM == 1:
        inverse = tl.rsqrt(tl.sum(x * x, axis=1) / DIM + eps)[:, None]
        x = x * inverse
        swapped = swapped * inverse
    return x, swapped


@triton.jit
def _attention_kernel(
    queries,
    keys,
    values,
    pad_bias,
    query_weight,
    query_bias,
    key_weight,
    key_bias,
    cos,
    sin,
    out,
    num_rows,
    query_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    scale,
    eps,
    GROUPS: tl.constexpr,
    DIM: tl.constexpr,
    NORM: tl.constexpr,
    IS_SELF: tl.constexpr,
    ROTARY: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    EARLY: tl.constexpr,
):
    head = tl.program_id(0)
    rows, dims = tl.arange(0, BLOCK_ROWS), tl.arange(0, DIM)
    swapped_dims = (dims + DIM // 2) % DIM
    is_row = rows[:, None] < num_rows
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    query_at = queries + head * DIM + rows[:, None] * query_stride
    x = tl.load(query_at + dims[None, :], mask=is_row, other=0.0).to(tl.float32)
    swapped = tl.load(query_at + swapped_dims[None, :], mask=is_row, other=0.0).to(tl.float32)
    x, swapped = _normed(x, swapped, query_weight, query_bias, dims, swapped_dims, eps, DIM, NORM)
    if ROTARY:
        angle_at = rows[:, None] * DIM + dims[None, :]
        x = x * tl.load(cos + angle_at, mask=is_row, other=0.0)
        x += swapped * tl.load(sin + angle_at, mask=is_row, other=0.0)
    query = x.to(out.dtype.element_ty)
    key_at = keys + (head // GROUPS) * key_head_stride
    value_at = values + (head // GROUPS) * value_head_stride
    largest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    weight_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    total = tl.zeros([BLOCK_ROWS, DIM], tl.float32)
    for start in range(0, NUM_KEYS, BLOCK_KEYS):
        each = start + tl.arange(0, BLOCK_KEYS)
        is_key = each < NUM_KEYS
        key = tl.load(key_at + each[:, None] * key_stride + dims[None, :], mask=is_key[:, None], other=0.0)
        if IS_SELF:
            x = key.to(tl.float32)
            swapped = tl.load(
                key_at + each[:, None] * key_stride + swapped_dims[None, :], mask=is_key[:, None], other=0.0
            )
            x, swapped = _normed(x, swapped.to(tl.float32), key_weight, key_bias, dims, swapped_dims, eps, DIM, NORM)
            if ROTARY:
                angle_at = each[:, None] * DIM + dims[None, :]
                x = x * tl.load(cos + angle_at, mask=is_key[:, None], other=0.0)
                x += swapped * tl.load(sin + angle_at, mask=is_key[:, None], other=0.0)
            key = x.to(out.dtype.element_ty)
        scores = tl.dot(query, tl.trans(key)) * scale
        if HAS_BIAS:
            scores += tl.load(pad_bias + each, mask=is_key, other=0.0).to(tl.float32)[None, :]
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        higher = tl.maximum(largest, tl.max(scores, axis=1))
        # A row that has seen no key yet has nothing to rescale.
        kept = tl.where(largest == float("-inf"), 0.0, tl.exp(largest - higher))
        parts = tl.where(scores == float("-inf"), 0.0, tl.exp(scores - higher[:, None]))
        value = tl.load(value_at + each[:, None] * value_stride + dims[None, :], mask=is_key[:, None], other=0.0)
        total = total * kept[:, None] + tl.dot(parts.to(out.dtype.element_ty), value)
        weight_sum = weight_sum * kept + tl.sum(parts, axis=1)
        largest = higher
    result = total / weight_sum[:, None]
    out_stride = tl.num_programs(0) * DIM
    tl.store(
        out + rows[:, None] * out_stride + head * DIM + dims[None, :], result.to(out.dtype.element_ty), mask=is_row
    )


def attention(
    queries: Float[Tensor, "rows query_dim"],
    keys: Tensor,
    values: Tensor,
    pad_bias: Float[Tensor, "keys"] | None,
    norms: tuple[Tensor | None, ...],
    rotary: tuple[Tensor, Tensor] | None,
    is_self: bool,
    qk_norm: str,
    eps: float,
) -> Float[Tensor, "rows query_dim"]:
    """Heads side by side. ``keys`` and ``values`` are [rows, kv_heads, head_dim], ready ones where not ``is_self``;
    ``norms`` are weight and bias of the query norm, then of the key norm."""
    num_rows, (num_keys, kv_heads, dim) = queries.shape[0], keys.shape
    num_heads = queries.shape[1] // dim
    out = torch.empty(num_rows, num_heads * dim, dtype=queries.dtype, device=queries.device)
    _attention_kernel[(num_heads,)](
        queries,
        keys,
        values,
        pad_bias,
        *norms,
        *(rotary or (None, None)),
        out,
        num_rows,
        queries.stride(0),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        dim**-0.5,
        eps,
        GROUPS=num_heads // kv_heads,
        DIM=dim,
        NORM=NORMS[qk_norm],
        IS_SELF=is_self,
        ROTARY=rotary is not None,
        HAS_BIAS=pad_bias is not None,
        BLOCK_ROWS=max(16, triton.next_power_of_2(num_rows)),
        BLOCK_KEYS=min(64, max(16, triton.next_power_of_2(num_keys))),
        NUM_KEYS=num_keys,
        EARLY=kernels.early_start,
        num_warps=4,
        **kernels.launch_options(),
    )
    return out
