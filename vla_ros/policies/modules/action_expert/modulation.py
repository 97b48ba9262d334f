"""What the flow time does to a block of the action expert.

Adaptive layer norm after Peebles & Xie, "Scalable Diffusion Models with Transformers", section 3.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


class Modulation(NamedTuple):
    """What the flow time does to one half of a block: ``gate * f(x * scale + shift)``; ``scale`` includes the 1."""

    shift: Float[Tensor, "#batch #draws #suffix width"]
    scale: Float[Tensor, "#batch #draws #suffix width"]
    gate: Float[Tensor, "#batch #draws #suffix width"]


class AbsorbedModulation(NamedTuple):
    """That of a step where it is the same for all rows: ``gate * f(x * scale)``; the shift is part of the ``bias`` of
    what ``f`` begins with."""

    bias: Float[Tensor, "out"]
    scale: Float[Tensor, "width"]
    gate: Float[Tensor, "width"]


class BlockModulation(NamedTuple):
    """The modulations of a block's attention and of its MLP."""

    attention: Modulation | AbsorbedModulation
    mlp: Modulation | AbsorbedModulation


Modulations = TypeVar("Modulations", BlockModulation, tuple[BlockModulation, ...])
"""Of one block, or of all."""


def embed_time(time: Float[Tensor, "*times"], width: int) -> Float[Tensor, "*times width"]:
    """Sines then cosines of ``time`` at ``width / 2`` periods, geometric from 4e-3 to 4; float32."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float32, device=time.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = time.float()[..., None] * (2 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def freeze_rows(noisy: Modulations, clean: Modulations, is_frozen: Bool[Tensor, "batch #draws suffix"]) -> Modulations:
    """``clean`` in the frozen rows of the suffix, ``noisy`` in the others."""
    chosen = is_frozen[..., None]
    return tree_map(lambda frozen, other: torch.where(chosen, frozen, other), clean, noisy)


class AdaptiveModulation(nn.Module):
    """Shift, scale and gate from the time embedding. Starts as the plain block: no shift, no scale, gate 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.copy_(torch.cat((torch.zeros(2 * width), torch.ones(width))))

    def forward(self, time_embedding: Float[Tensor, "batch draws width"]) -> Modulation:
        shift, scale, gate = self.modulation(F.silu(time_embedding)).unsqueeze(-2).chunk(3, dim=-1)
        return Modulation(shift, 1 + scale, gate)
