"""Pieces common to transformer stacks: rotary embedding, prefix masks, constants by device."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Rotary(NamedTuple):
    """Cosines and signed sines, ready to broadcast over [batch, rows, heads, head_dim] (half-split layout).

    The first half of ``sin`` is negated, so that a rotation is ``x * cos + swap_halves(x) * sin``.
    """

    cos: Float[Tensor, "#batch rows 1 head_dim"]
    sin: Float[Tensor, "#batch rows 1 head_dim"]


def make_rotary(angles: Float[Tensor, "#batch rows half"]) -> Rotary:
    """From angles in rad, float32, one for each pair of channels."""
    cos, sin = angles.cos(), angles.sin()
    return Rotary(torch.cat((cos, cos), -1).unsqueeze(-2), torch.cat((-sin, sin), -1).unsqueeze(-2))


def apply_rotary(
    x: Float[Tensor, "batch rows heads head_dim"], rotary: Rotary
) -> Float[Tensor, "batch rows heads head_dim"]:
    """Rotate channel ``i`` with channel ``i + head_dim / 2``; computed in float32, returned as ``x`` came."""
    half = x.shape[-1] // 2
    value = x.float()
    swapped = torch.cat((value[..., half:], value[..., :half]), dim=-1)
    return torch.addcmul(value * rotary.cos, swapped, rotary.sin).to(x.dtype)


def inverse_frequencies(dim: int, theta: float, device: torch.device) -> Float[Tensor, "half"]:
    """``theta ** (-2i / dim)`` for each pair of channels, float32."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)


@lru_cache(maxsize=64)
def rotary_angles(length: int, head_dim: int, theta: float, device: torch.device) -> Rotary:
    """Rotary embedding of positions 0 .. length - 1: a constant, made once for each device."""
    with torch.inference_mode(False), torch.no_grad():
        positions = torch.arange(length, dtype=torch.float32, device=device)
        return make_rotary((positions[:, None] * inverse_frequencies(head_dim, theta, device))[None])


def prefix_attention_mask(
    attention_mask: Bool[Tensor, "batch seq"],
    register_mask: Bool[Tensor, "batch seq"],
    num_registers: int,
) -> Bool[Tensor, "batch 1 prefix prefix"]:
    """Who sees whom in the prefix: True where the query (row) may read the key (column).

    Tokens see earlier valid tokens; registers see the tokens of ``register_mask`` and each other. Every position
    sees itself, padding too: a row without any key would be NaN, and NaN spreads even through masked keys.
    """
    batch, seq = attention_mask.shape
    rows = torch.ones(seq, seq, dtype=torch.bool, device=attention_mask.device)
    among_tokens = (rows.tril() & attention_mask[:, None, :]) | torch.eye(seq, dtype=torch.bool, device=rows.device)
    tokens = torch.cat((among_tokens, rows.new_zeros(batch, seq, num_registers)), dim=-1)
    seen = register_mask[:, None, :].expand(-1, num_registers, -1)
    registers = torch.cat((seen, rows.new_ones(batch, num_registers, num_registers)), dim=-1)
    return torch.cat((tokens, registers), dim=1).unsqueeze(1)
