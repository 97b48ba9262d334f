"""Both ends of the suffix: numbers to the expert's width and back; a product of seven columns needs no tiles."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


@triton.jit
def _embed_kernel(
    state,
    state_weight,
    state_bias,
    state_position,
    actions,
    action_weight,
    action_bias,
    action_position,
    scale,
    shift,
    x,
    normed,
    modulation_stride,
    eps,
    NUM_STATES: tl.constexpr,
    STATE_DIM: tl.constexpr,
    ACTION_DIM: tl.constexpr,
    HAS_POSITION: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, dims = tl.program_id(0), tl.arange(0, BLOCK)
    inside = dims < WIDTH
    value = tl.zeros([BLOCK], tl.float32)
    if row < NUM_STATES:
        for i in tl.static_range(STATE_DIM):
            given = tl.load(state + row * STATE_DIM + i).to(tl.float32)
            value += given * tl.load(state_weight + dims * STATE_DIM + i, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(state_bias + dims, mask=inside, other=0.0).to(tl.float32)
        if HAS_POSITION:
            value += tl.load(state_position + row * WIDTH + dims, mask=inside, other=0.0).to(tl.float32)
    else:
        at = row - NUM_STATES
        for i in tl.static_range(ACTION_DIM):
            given = tl.load(actions + at * ACTION_DIM + i).to(tl.float32)
            value += given * tl.load(action_weight + dims * ACTION_DIM + i, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(action_bias + dims, mask=inside, other=0.0).to(tl.float32)
        if HAS_POSITION:
            value += tl.load(action_position + at * WIDTH + dims, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * WIDTH + dims, value, mask=inside)
    result = value * tl.rsqrt(tl.sum(value * value, axis=0) / WIDTH + eps)
    at = row * modulation_stride + dims
    result = result * tl.load(scale + at, mask=inside, other=0.0).to(tl.float32)
    result += tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * WIDTH + dims, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _project_kernel(
    x, weight, bias, out, WIDTH: tl.constexpr, NUM_OUT: tl.constexpr, BLOCK: tl.constexpr, OUTS: tl.constexpr
):
    row, dims, outs = tl.program_id(0), tl.arange(0, BLOCK), tl.arange(0, OUTS)
    inside, is_out = dims < WIDTH, outs < NUM_OUT
    value = tl.load(x + row * WIDTH + dims, mask=inside, other=0.0).to(tl.float32)
    weights = tl.load(weight + outs[:, None] * WIDTH + dims[None, :], mask=is_out[:, None] & inside[None, :], other=0.0)
    result = tl.sum(weights.to(tl.float32) * value[None, :], axis=1)
    result += tl.load(bias + outs, mask=is_out, other=0.0).to(tl.float32)
    tl.store(out + row * NUM_OUT + outs, result, mask=is_out)


def embed_and_norm(
    state: tuple[Float[Tensor, "history state"], Tensor, Tensor, Tensor] | None,
    actions: tuple[Float[Tensor, "horizon action"], Tensor, Tensor, Tensor],
    has_position: bool,
    modulation: tuple[Tensor, Tensor],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "suffix width"], Float[Tensor, "suffix width"]]:
    """The suffix in float32, and its modulated norm; both of state and actions: values, weight, bias, positions."""
    given, width = actions[0], actions[1].shape[0]
    num_states = 0 if state is None else state[0].shape[0]
    scale, shift = modulation
    x = torch.empty(num_states + given.shape[0], width, dtype=torch.float32, device=given.device)
    normed = torch.empty_like(x, dtype=dtype)
    _embed_kernel[(len(x),)](
        *(state or (None,) * 4),
        *actions,
        scale,
        shift,
        x,
        normed,
        0 if scale.shape[0] == 1 else scale.stride(0),
        eps,
        NUM_STATES=num_states,
        STATE_DIM=0 if state is None else state[0].shape[1],
        ACTION_DIM=given.shape[1],
        HAS_POSITION=has_position,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return x, normed


def project(
    x: Float[Tensor, "rows width"], weight: Float[Tensor, "out width"], bias: Float[Tensor, "out"]
) -> Float[Tensor, "rows out"]:
    """``x @ weight.T + bias`` in float32, for a handful of outputs."""
    (num_rows, width), num_out = x.shape, weight.shape[0]
    out = torch.empty(num_rows, num_out, dtype=torch.float32, device=x.device)
    _project_kernel[(num_rows,)](
        x,
        weight,
        bias,
        out,
        WIDTH=width,
        NUM_OUT=num_out,
        BLOCK=triton.next_power_of_2(width),
        OUTS=triton.next_power_of_2(num_out),
        num_warps=4,
    )
    return out
