"""What lies between two products of a modulated block: sum, gate, residual and the next norm, one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

import kernels


@triton.jit
def _residual_kernel(
    x,
    partial,
    bias,
    gate,
    scale,
    shift,
    normed,
    num_rows,
    gate_stride,
    modulation_stride,
    eps,
    WIDTH: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    row, dims = tl.program_id(0), tl.arange(0, BLOCK)
    inside = dims < WIDTH
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + row * WIDTH + dims, mask=inside, other=0.0)
    added = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(NUM_PARTS):
        added += tl.load(partial + (part * num_rows + row) * WIDTH + dims, mask=inside, other=0.0)
    if HAS_BIAS:
        added += tl.load(bias + dims, mask=inside, other=0.0).to(tl.float32)
    value += added * tl.load(gate + row * gate_stride + dims, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * WIDTH + dims, value, mask=inside)
    result = value * tl.rsqrt(tl.sum(value * value, axis=0) / WIDTH + eps)
    if MODULATED:
        at = row * modulation_stride + dims
        result = result * tl.load(scale + at, mask=inside, other=0.0).to(tl.float32)
        result += tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * WIDTH + dims, result.to(normed.dtype.element_ty), mask=inside)


def add_and_norm(
    x: Float[Tensor, "rows width"],
    partial: Float[Tensor, "parts rows width"],
    bias: Float[Tensor, "width"] | None,
    gate: Float[Tensor, "#rows width"],
    modulation: tuple[Tensor, Tensor] | None,
    eps: float,
    dtype: torch.dtype,
) -> Float[Tensor, "rows width"]:
    """``x += gate * (sum of partial + bias)``, in place and in float32; then ``rms_norm(x) * scale + shift`` in
    ``dtype``, ``modulation`` being scale and shift, or ``rms_norm(x)`` alone."""
    num_rows, width = x.shape
    scale, shift = modulation or (None, None)
    normed = torch.empty(num_rows, width, dtype=dtype, device=x.device)
    _residual_kernel[(num_rows,)](
        x,
        partial,
        bias,
        gate,
        scale,
        shift,
        normed,
        num_rows,
        _row_stride(gate),
        0 if scale is None else _row_stride(scale),
        eps,
        WIDTH=width,
        NUM_PARTS=partial.shape[0],
        HAS_BIAS=bias is not None,
        MODULATED=modulation is not None,
        BLOCK=triton.next_power_of_2(width),
        EARLY=kernels.early_start,
        num_warps=4,
        **kernels.launch_options(),
    )
    return normed


def _row_stride(rows: Tensor) -> int:
    """0 where one row is for all."""
    return 0 if rows.shape[0] == 1 else rows.stride(0)
