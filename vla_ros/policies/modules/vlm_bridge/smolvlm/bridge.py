"""The SmolVLM 2 bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from vla_ros.policies.modules.layers.decoder import rms_norm_of
from vla_ros.policies.modules.layers.packing import PackedLinear
from vla_ros.policies.modules.layers.siglip import pack_siglip
from vla_ros.policies.modules.vlm_bridge import build
from vla_ros.policies.modules.vlm_bridge.base import PrefixPlan, VLMBridge
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.smolvlm.forward import join_prefix, run_text, run_vision

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
        num_layers = len(self.causal_model.model.vision_model.encoder.layers)
        self.packed_vision: tuple[PackedLinear | None, ...] = (None,) * num_layers

    @property
    def language_model(self) -> Any:
        return self.causal_model.model.text_model

    @property
    def image_token_id(self) -> int:
        return self.causal_model.config.image_token_id

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid) // self.causal_model.config.scale_factor**2

    def pack_weights(self) -> None:
        super().pack_weights()
        self.packed_vision = pack_siglip(self.causal_model.model.vision_model)

    def run(
        self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"], plan: PrefixPlan
    ) -> tuple[Float[Tensor, "batch rows hidden"], ...]:
        images = run_vision(self.causal_model.model, self.packed_vision, inputs, self.config)
        embeddings = self.language_model.embed_tokens(inputs.input_ids)
        image_mask = inputs.input_ids == self.image_token_id
        prefix = join_prefix(embeddings, image_mask, images, registers)
        return run_text(self.language_model, self.packed_layers, prefix, plan)

    def final_norm(self, states: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows hidden"]:
        return rms_norm_of(self.language_model.norm, states)


def build_config(document: Mapping[str, Any]) -> SmolVLMConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know, or text layers not run here."""
    groups = {"text_config": LlamaConfig, "vision_config": SmolVLMVisionConfig}
    config = build.build_config(SmolVLMConfig, groups, document, MORE_KEYS)
    for name, group in groups.items():
        got = getattr(config, name)
        if type(got) is not group:
            expected = f"'{got.model_type}'; SmolVLM has '{group.model_type}'"
            raise ValueError(f"policy.vlm_config.{name}.model_type is {expected}: give its own config.json")
    rope_type = config.text_config.rope_parameters["rope_type"]
    if rope_type != "default":
        raise ValueError(f"policy.vlm_config.text_config: rope_type is '{rope_type}'; only 'default' is computed here")
    return config
