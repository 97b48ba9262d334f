"""The embedding of a flow time as LeRobot and openpi compute it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def embed_flow_time(
    time: Float[Tensor, "*times"], width: int, min_period: float = 4e-3, max_period: float = 4.0
) -> Float[Tensor, "*times width"]:
    """Sines then cosines of ``time`` at ``width / 2`` periods in a geometric series; float32, computed in float64: the
    shortest period turns more than a hundred times."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = time.double()[..., None] * (2 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1).float()
