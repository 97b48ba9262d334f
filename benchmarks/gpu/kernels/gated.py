"""The product in the middle of a gated MLP, over a packed projection."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
BLOCK = 1024


@triton.jit
def _gated_kernel(x, out, num_out, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = dims < num_out
    gate = tl.load(x + row * 2 * num_out + dims, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + (row * 2 + 1) * num_out + dims, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == 0:
        gate = gate * tl.sigmoid(gate)
    else:  # 0.5 (1 + tanh z) is sigmoid(2 z)
        gate = gate * tl.sigmoid(2.0 * 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate))
    tl.store(out + row * num_out + dims, (gate * up).to(out.dtype.element_ty), mask=inside)


def gated(x: Float[Tensor, "rows packed"], activation: str) -> Float[Tensor, "rows half"]:
    """``act(first half) * second half`` of each row."""
    num_rows, num_out = x.shape[0], x.shape[1] // 2
    out = torch.empty(num_rows, num_out, dtype=x.dtype, device=x.device)
    _gated_kernel[(num_rows, triton.cdiv(num_out, BLOCK))](
        x, out, num_out, ACTIVATION=ACTIVATIONS[activation], BLOCK=BLOCK, num_warps=4
    )
    return out
