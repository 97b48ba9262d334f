"""The SmolVLM 2 bridge: builds the transformers model from its config and encodes the prefix with its modules.

Same values as transformers' own forward (to rounding) for whole square images, without what a policy doesn't need.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMModel
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from vla_ros.policies.base import Layer
from vla_ros.policies.modules.layers.siglip import SiglipTower
from vla_ros.policies.modules.vlm_bridge.base import EmbeddedPrefix, VLMBridge, read_config
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.utils.transformers import constant

# Written by releases, some in one group and some in another; none of them changes a value that is computed here.
MORE_KEYS = frozenset(
    "_attn_implementation_autoset _flash_attn_2_enabled _name_or_path _pad_token_id is_llama_config max_image_size "
    "neftune_noise_alpha pad_token_id perceiver_config pixel_shuffle_factor qk_layer_norms rope_interleaved size "
    "tie_word_embeddings use_base_siglip use_reentrant_checkpointing use_resampler vocab_size".split()
)


class SmolVLMBridge(VLMBridge):
    """SmolVLM 2; of its vision tower and text layers only the weights are used."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, SmolVLMForConditionalGeneration(build_config(config.vlm_config)))
        self.vision = SiglipTower(self.causal_model.model.vision_model, config.image_mean, config.image_std)

    @property
    def language_model(self) -> Any:
        return self.causal_model.model.text_model

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid) // self.causal_model.config.scale_factor**2

    def pack_weights(self) -> None:
        super().pack_weights()
        self.vision.pack_weights()

    def vision_layers(self) -> tuple[Layer, ...]:
        return self.vision.layers()

    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        return EmbeddedPrefix(self.join(inputs, self.see(inputs, self.vision), registers))

    def see(self, inputs: VLMInputs, vision: SiglipTower) -> Float[Tensor, "images image_tokens hidden"]:
        """The image tokens of all images of the batch, in order."""
        side = self.causal_model.model.vision_model.embeddings.num_patches_per_side
        assert set(inputs.image_grid) == {(1, side, side)}, (
            "the processor makes whole square images of the tower's size"
        )
        rounds_down = rounds_positions_down(self.config.vlm_config)
        return see(self.causal_model.model, vision, inputs.pixel_values, rounds_down)


def see(
    model: SmolVLMModel,
    vision: SiglipTower,
    pixel_values: Shaped[Tensor, "batch patches patch"] | Float[Tensor, "images channels height width"],
    rounds_down: bool,
) -> Float[Tensor, "images image_tokens hidden"]:
    """The image tokens of whole square images, in order, by ``vision``, the model's tower, which says what pixels it
    takes."""
    embeddings, connector = model.vision_model.embeddings, model.connector
    side = embeddings.num_patches_per_side
    rows = position_rows(side, rounds_down, pixel_values.device)
    states = vision(pixel_values, embeddings.position_embedding(rows))
    return connector.modality_projection.proj(shuffle_pixels(states, side, connector.scale_factor))


def build_model(document: Mapping[str, Any], num_layers: int) -> SmolVLMModel:
    """The model without a language-model head and with the first ``num_layers`` text layers; raises ValueError as
    ``build_config`` does, and where there are fewer."""
    config = build_config(document)
    num_there = config.text_config.num_hidden_layers
    if num_layers > num_there:
        raise ValueError(f"policy.vlm_config.text_config has {num_there} layers; the policy reads {num_layers} of them")
    config.text_config.num_hidden_layers = num_layers
    return SmolVLMModel(config)


def build_config(document: Mapping[str, Any]) -> SmolVLMConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know, or text layers not run here."""
    groups = {"text_config": LlamaConfig, "vision_config": SmolVLMVisionConfig}
    config = read_config(SmolVLMConfig, groups, document, MORE_KEYS)
    for name, group in groups.items():
        got = getattr(config, name)
        if type(got) is not group:
            expected = f"'{got.model_type}'; SmolVLM has '{group.model_type}'"
            raise ValueError(f"policy.vlm_config.{name}.model_type is {expected}: give its own config.json")
    return config


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
