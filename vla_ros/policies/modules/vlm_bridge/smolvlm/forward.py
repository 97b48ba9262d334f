"""The images of SmolVLM 2 over the modules of transformers: a SigLIP tower and pixel shuffle.

Same values as transformers' own forward (to rounding) for whole square images, without what a policy doesn't need.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vla_ros.policies.modules.layers.siglip import SiglipTower
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.utils.transformers import constant


def run_vision(
    model: Any, vision: SiglipTower, inputs: VLMInputs, vlm_config: Mapping[str, Any]
) -> Float[Tensor, "images image_tokens hidden"]:
    """The image tokens of all images of the batch, in order."""
    embeddings, connector = model.vision_model.embeddings, model.connector
    side = embeddings.num_patches_per_side
    assert set(inputs.image_grid) == {(1, side, side)}, "the processor makes whole square images of the tower's size"
    rows = position_rows(side, rounds_positions_down(vlm_config), inputs.pixel_values.device)
    states = vision(inputs.pixel_values, embeddings.position_embedding(rows))
    return connector.modality_projection.proj(shuffle_pixels(states, side, connector.scale_factor))


def rounds_positions_down(vlm_config: Mapping[str, Any]) -> bool:
    """Whether the release comes from a transformers that looked the positions of patches up that way."""
    return re.match(r"4\.5[567]\.", str(vlm_config.get("transformers_version"))) is not None


def shuffle_pixels(
    states: Float[Tensor, "images patches vision"], side: int, scale: int
) -> Float[Tensor, "images image_tokens channels"]:
    """Each block of ``scale * scale`` patches as one token, its patches row by row in the channels.

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN", inverted.
    """
    rows = side // scale
    blocks = states.reshape(len(states), rows, scale, rows, scale, states.shape[-1])
    return blocks.transpose(2, 3).reshape(len(states), rows * rows, -1)


@constant
def position_rows(side: int, rounds_down: bool, device: torch.device) -> Int64[Tensor, "patches"]:
    """The rows of the learned position table for ``side * side`` patches, as transformers looks them up.

    It takes each patch's place as a fraction of the image, in float32, and counts the bounds up to there. That gives
    0, 1, 2, … for the published sizes; at some others (19 patches a side, say) rounding repeats a row. With
    ``rounds_down`` as in transformers 4.55 to 4.57: every place falls just short of its bound, so 0, 0, 1, 2, ….
    """
    places = torch.arange(side, dtype=torch.float32)
    if rounds_down:
        places = places / side * (1.0 - 1e-6)
    else:
        places = (places * (1.0 / torch.tensor(side))).clamp(max=1.0 - 1e-6)
    rows = torch.bucketize(places, torch.arange(1 / side, 1.0, 1 / side), right=True)
    return (rows[:, None] * side + rows).flatten().to(device)
