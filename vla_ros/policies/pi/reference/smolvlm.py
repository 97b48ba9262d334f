"""The prefix of SmolVLM 2: a SigLIP tower, pixel shuffle, Llama layers."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from vla_ros.policies.pi.reference.parts import (
    LayerOutputs,
    add_registers,
    decoder_layer,
    normalize_pixels,
    run_layers,
    siglip,
    text_rotary,
)


def run_prefix(policy: Any, inputs: Any) -> list[LayerOutputs]:
    model, registers = policy.vlm_bridge.causal_model.model, policy.obs_registers
    text = model.text_model
    is_image = (inputs.input_ids == model.config.image_token_id).unsqueeze(-1)
    embeddings = text.embed_tokens(inputs.input_ids).masked_scatter(is_image, _vision(model, policy.config, inputs))
    x = add_registers(embeddings, registers)
    rotary, mask = text_rotary(text.config, inputs.position_ids), inputs.prefix_mask[:, None]
    return run_layers(text.layers, x, lambda layer, states: decoder_layer(layer, states, rotary, mask))


def _vision(model: Any, config: Any, inputs: Any) -> Tensor:
    tower, connector = model.vision_model, model.connector
    side, scale = tower.embeddings.num_patches_per_side, connector.scale_factor
    patches = inputs.pixel_values.reshape(-1, side * side, inputs.pixel_values.shape[-1])
    # Releases of transformers 4.55 to 4.57 looked up the row and the column before.
    shift = 1 if re.match(r"4\.5[567]\.", str(config.vlm_config.get("transformers_version"))) else 0
    place = (torch.arange(side, device=patches.device) - shift).clamp(min=0)
    positions = tower.embeddings.position_embedding((place[:, None] * side + place).flatten())
    x = siglip(tower, normalize_pixels(patches, config.image_mean, config.image_std), positions)
    blocks = x.reshape(len(x), side // scale, scale, side // scale, scale, x.shape[-1])
    return connector.modality_projection.proj(blocks.transpose(2, 3).reshape(len(x), (side // scale) ** 2, -1))
