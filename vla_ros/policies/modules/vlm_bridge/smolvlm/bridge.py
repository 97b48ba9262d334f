"""The SmolVLM 2 bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from vla_ros.policies.modules.layers.siglip import SiglipTower
from vla_ros.policies.modules.vlm_bridge import build
from vla_ros.policies.modules.vlm_bridge.base import EmbeddedPrefix, VLMBridge
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.smolvlm.forward import run_vision

# Written by releases, some in one group and some in another; none of them changes a value that is computed here.
MORE_KEYS = frozenset(
    "_attn_implementation_autoset _flash_attn_2_enabled _name_or_path is_llama_config max_image_size "
    "neftune_noise_alpha pad_token_id perceiver_config pixel_shuffle_factor qk_layer_norms rope_interleaved size "
    "tie_word_embeddings use_base_siglip use_reentrant_checkpointing use_resampler vocab_size".split()
)


class SmolVLMBridge(VLMBridge):
    """SmolVLM 2; of its vision tower and text layers only the weights are used, see ``forward``."""

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

    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        images = run_vision(self.causal_model.model, self.vision, inputs, self.config.vlm_config)
        return EmbeddedPrefix(self.join(inputs, images, registers))


def build_config(document: Mapping[str, Any]) -> SmolVLMConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know, or text layers not run here."""
    groups = {"text_config": LlamaConfig, "vision_config": SmolVLMVisionConfig}
    config = build.build_config(SmolVLMConfig, groups, document, MORE_KEYS)
    for name, group in groups.items():
        got = getattr(config, name)
        if type(got) is not group:
            expected = f"'{got.model_type}'; SmolVLM has '{group.model_type}'"
            raise ValueError(f"policy.vlm_config.{name}.model_type is {expected}: give its own config.json")
    return config
