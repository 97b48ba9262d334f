"""Pixels on the device: they travel as uint8 and are normalised there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vla_ros.policies.utils.transformers import constant


def normalize_patches(
    patches: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "*images patches patch"]:
    """uint8 patches, channels first within each, to float32 ``(x / 255 - mean) / std``."""
    scale, shift = _pixel_constants(mean, std, patches.device)
    return (patches.unflatten(-1, (len(mean), -1)).float() * scale + shift).flatten(-2)


@constant
def _pixel_constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    means, stds = (torch.tensor(x, dtype=torch.float64) for x in (mean, std))
    return tuple(x.float()[:, None].to(device) for x in (1 / (255 * stds), -means / stds))
