"""The Qwen3-VL bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

from vla_ros.policies.modules.layers.decoder import rms_norm_of
from vla_ros.policies.modules.vlm_bridge import build
from vla_ros.policies.modules.vlm_bridge.base import PrefixPlan, VLMBridge
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.qwen.forward import ImageFeatures, run_text, run_vision


class QwenBridge(VLMBridge):
    """Qwen3-VL; of its vision tower and text layers only the weights are used, see ``forward``."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, Qwen3VLForConditionalGeneration(build_config(config.vlm_config)))

    @property
    def language_model(self) -> Any:
        return self.causal_model.model.language_model

    @property
    def image_token_id(self) -> int:
        return self.causal_model.config.image_token_id

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid) // self.causal_model.config.vision_config.spatial_merge_size**2

    def run(
        self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"], plan: PrefixPlan
    ) -> tuple[Float[Tensor, "batch rows hidden"], ...]:
        images = run_vision(self.causal_model.model.visual, inputs, self.config.image_mean, self.config.image_std)
        image_mask = inputs.input_ids == self.image_token_id
        embeddings = self.language_model.embed_tokens(inputs.input_ids)
        return run_text(
            self.language_model, self.packed_layers, embeddings, registers, ImageFeatures(image_mask, images), plan
        )

    def final_norm(self, states: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows hidden"]:
        return rms_norm_of(self.language_model.norm, states)


def build_config(document: Mapping[str, Any]) -> Qwen3VLConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know."""
    groups = {"text_config": Qwen3VLTextConfig, "vision_config": Qwen3VLVisionConfig}
    return build.build_config(Qwen3VLConfig, groups, document)
