"""The Qwen3-VL bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

from vla_ros.policies.modules.vlm_bridge import build
from vla_ros.policies.modules.vlm_bridge.base import EmbeddedPrefix, VLMBridge
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.qwen.forward import interleaved_rotary, run_vision
from vla_ros.policies.utils.transformers import Rotary


class QwenBridge(VLMBridge):
    """Qwen3-VL; of its vision tower and text layers only the weights are used, see ``forward``."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, Qwen3VLForConditionalGeneration(build_config(config.vlm_config)))

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid) // self.causal_model.config.vision_config.spatial_merge_size**2

    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        images = run_vision(self.causal_model.model.visual, inputs, self.config.image_mean, self.config.image_std)
        states, is_image = self.join(inputs, images.features, registers), self.is_image(inputs)
        nothing = torch.zeros_like(states[:, : is_image.shape[1]])
        added = (nothing.masked_scatter(is_image, features.to(states.dtype)) for features in images.deepstack)
        return EmbeddedPrefix(states, tuple(F.pad(image, (0, 0, 0, len(registers))) for image in added))

    def make_rotary(self, position_ids: Int64[Tensor, "batch 3 prefix"]) -> Rotary:
        return interleaved_rotary(self.language_model.config, position_ids)


def build_config(document: Mapping[str, Any]) -> Qwen3VLConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know."""
    groups = {"text_config": Qwen3VLTextConfig, "vision_config": Qwen3VLVisionConfig}
    return build.build_config(Qwen3VLConfig, groups, document)
