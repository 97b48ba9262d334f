"""The forward pass of SmolVLM 2 over the modules of transformers: a SigLIP tower, pixel shuffle, and Llama layers.

Same values as transformers' own forward (to rounding) for whole square images, without what a policy doesn't need.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla_ros.policies.modules.layers.decoder import run_layer
from vla_ros.policies.modules.layers.packing import PackedLayer, PackedLinear
from vla_ros.policies.modules.layers.siglip import run_siglip
from vla_ros.policies.modules.vlm_bridge.base import PrefixPlan
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.utils.transformers import Rotary, inverse_frequencies, make_rotary


def run_vision(
    model: Any,
    packed_layers: tuple[PackedLinear | None, ...],
    inputs: VLMInputs,
    config: PrefixConfig,
) -> Float[Tensor, "images image_tokens hidden"]:
    """The image tokens of all images of the batch, in order."""
    tower, connector = model.vision_model, model.connector
    side = tower.embeddings.num_patches_per_side
    assert set(inputs.image_grid) == {(1, side, side)}, "the processor makes whole square images of the tower's size"
    patches = inputs.pixel_values.reshape(-1, side * side, inputs.pixel_values.shape[-1])
    rows = position_rows(side, rounds_positions_down(config.vlm_config), patches.device)
    positions = tower.embeddings.position_embedding(rows)
    states = run_siglip(tower, packed_layers, patches, positions, config.image_mean, config.image_std)
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


@lru_cache(maxsize=16)
def position_rows(side: int, rounds_down: bool, device: torch.device) -> Int64[Tensor, "patches"]:
    """The rows of the learned position table for ``side * side`` patches, as transformers looks them up.

    It takes each patch's place as a fraction of the image, in float32, and counts the bounds up to there. That gives
    0, 1, 2, … for the published sizes; at some others (19 patches a side, say) rounding repeats a row. With
    ``rounds_down`` as in transformers 4.55 to 4.57: every place falls just short of its bound, so 0, 0, 1, 2, ….
    """
    with torch.inference_mode(False), torch.no_grad():
        places = torch.arange(side, dtype=torch.float32)
        if rounds_down:
            places = places / side * (1.0 - 1e-6)
        else:
            places = (places * (1.0 / torch.tensor(side))).clamp(max=1.0 - 1e-6)
        rows = torch.bucketize(places, torch.arange(1 / side, 1.0, 1 / side), right=True)
        return (rows[:, None] * side + rows).flatten().to(device)


def run_text(
    text_model: Any,
    packed_layers: tuple[PackedLayer | None, ...],
    x: Float[Tensor, "batch prefix hidden"],
    plan: PrefixPlan,
) -> tuple[Float[Tensor, "batch rows hidden"], ...]:
    """The recorded states, before the final norm: all positions, but ``plan.last_rows`` of the last layer."""
    config, num_layers = text_model.config, len(text_model.layers)
    rotary = _text_rotary(config.head_dim, config.rope_parameters["rope_theta"], plan.position_ids)
    recorded = []
    for i, layer in enumerate(text_model.layers):
        rows = plan.last_rows if i == num_layers - 1 else x.shape[1]
        x = run_layer(layer, packed_layers[i], x, rotary, plan.mask[:, :, -rows:])
        if i >= num_layers - plan.num_recorded_layers:
            recorded.append(x)
    return tuple(recorded)


def join_prefix(
    embeddings: Float[Tensor, "batch seq hidden"],
    image_mask: Bool[Tensor, "batch seq"],
    images: Float[Tensor, "images image_tokens hidden"],
    registers: Float[Tensor, "registers hidden"],
) -> Float[Tensor, "batch prefix hidden"]:
    """Token embeddings with the image tokens in their slots, then the registers."""
    tokens = embeddings.masked_scatter(image_mask.unsqueeze(-1), images.to(embeddings.dtype))
    return torch.cat((tokens, registers.expand(len(tokens), -1, -1)), dim=1)


def _text_rotary(head_dim: int, theta: float, position_ids: Int64[Tensor, "batch 1 prefix"]) -> Rotary:
    frequencies = _text_frequencies(head_dim, theta, position_ids.device)
    return make_rotary(position_ids[:, 0, :, None].float() * frequencies)


@lru_cache(maxsize=16)
def _text_frequencies(head_dim: int, theta: float, device: torch.device) -> Float[Tensor, "half"]:
    with torch.inference_mode(False), torch.no_grad():
        return inverse_frequencies(head_dim, theta, device)
