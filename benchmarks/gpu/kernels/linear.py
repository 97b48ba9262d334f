"""A linear layer over a few rows: one pass over the weights, which is all that such a product is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

import kernels

PLAIN, GATED, PARTIAL = 0, 1, 2
MAX_ROWS = 64


@triton.jit
def _linear_kernel(
    x,
    weight,
    bias,
    out,
    num_rows,
    num_out,
    x_stride,
    DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    MODE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    EARLY: tl.constexpr,
):
    """``MODE`` 0: ``x @ weight.T + bias``; 1: the first half of the outputs gates the second, ``silu(a) * b``; 2: each
    program sums over its own ``CHUNK`` of the inputs, float32 [chunks, rows, out]."""
    rows = tl.arange(0, BLOCK_ROWS)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    start = tl.program_id(1) * CHUNK
    dims = tl.arange(0, BLOCK_DIM)
    is_row = rows[:, None] < num_rows
    x_at = x + rows[:, None] * x_stride + start + dims[None, :]
    weight_at = weight + outs[:, None] * DIM + start + dims[None, :]
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if BLOCK_DIM == CHUNK:  # whole: weights are on their way before the input is there
        weights = tl.load(weight_at, eviction_policy="evict_first")
        if MODE == 1:
            others = tl.load(weight_at + num_out * DIM, eviction_policy="evict_first")
        if EARLY:
            tl.extra.cuda.gdc_wait()
        values = tl.load(x_at, mask=is_row, other=0.0)
        total = tl.dot(values, tl.trans(weights))
        if MODE == 1:
            second = tl.dot(values, tl.trans(others))
    else:
        if EARLY:
            tl.extra.cuda.gdc_wait()
        total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
        second = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
        for _ in range(0, CHUNK, BLOCK_DIM):
            weights = tl.load(weight_at, eviction_policy="evict_first")
            values = tl.load(x_at, mask=is_row, other=0.0)
            total = tl.dot(values, tl.trans(weights), total)
            if MODE == 1:
                others = tl.load(weight_at + num_out * DIM, eviction_policy="evict_first")
                second = tl.dot(values, tl.trans(others), second)
            x_at += BLOCK_DIM
            weight_at += BLOCK_DIM
    if HAS_BIAS:
        total += tl.load(bias + outs)[None, :].to(tl.float32)
    if MODE == 1:
        total = total * tl.sigmoid(total) * second
    out_at = out + rows[:, None] * num_out + outs[None, :]
    if MODE == 2:
        out_at += tl.program_id(1) * num_rows * num_out
    tl.store(out_at, total.to(out.dtype.element_ty), mask=is_row)


@dataclass(frozen=True)
class LinearTiles:
    """How a product is cut into programs; ``chunks`` is the number of parts of the input's dimension."""

    block_out: int
    block_dim: int
    chunks: int = 1
    num_warps: int = 4
    num_stages: int = 4


def tiles_for(num_out: int, dim: int, mode: int) -> LinearTiles:
    """Small tiles, so that every multiprocessor of a large GPU has weights to wait for; found on an H100."""
    if mode == PARTIAL:
        return LinearTiles(16, 256, chunks=max(1, dim // 1024))
    if mode == GATED:
        return LinearTiles(16, 256)
    return LinearTiles(32 if num_out > 8192 else 16, 256)


def block_rows(num_rows: int) -> int:
    """Rows are padded to this many inside a program."""
    return max(16, triton.next_power_of_2(num_rows))


def linear(
    x: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "out dim"],
    bias: Float[Tensor, "out"] | None,
    mode: int,
    tiles: LinearTiles,
) -> Tensor:
    """[rows, out] as ``x`` is, half as many of ``GATED`` weights; ``PARTIAL`` sums are float32 [chunks, rows, out]."""
    (num_rows, dim), num_out = x.shape, weight.shape[0] // (2 if mode == GATED else 1)
    shape = (tiles.chunks, num_rows, num_out) if mode == PARTIAL else (num_rows, num_out)
    out = torch.empty(shape, dtype=torch.float32 if mode == PARTIAL else x.dtype, device=x.device)
    _linear_kernel[(num_out // tiles.block_out, tiles.chunks)](
        x,
        weight,
        bias,
        out,
        num_rows,
        num_out,
        x.stride(0),
        DIM=dim,
        CHUNK=dim // tiles.chunks,
        MODE=mode,
        HAS_BIAS=bias is not None,
        BLOCK_ROWS=block_rows(num_rows),
        BLOCK_OUT=tiles.block_out,
        BLOCK_DIM=tiles.block_dim,
        EARLY=kernels.early_start,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **kernels.launch_options(),
    )
    return out
