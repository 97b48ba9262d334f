"""The PaliGemma bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from vla_ros.policies.modules.layers.siglip import SiglipTower
from vla_ros.policies.modules.vlm_bridge import build
from vla_ros.policies.modules.vlm_bridge.base import EmbeddedPrefix, VLMBridge
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.paligemma.forward import (
    PackedGemmaLayer,
    embed_prefix,
    gemma_norm,
    grouped_bias,
    layer_norms,
    norm_weight,
    run_layer,
)

TEXT_CONFIGS = {"gemma": GemmaConfig, "gemma2": Gemma2Config}
# Written by releases, some in one group and some in another; none of them changes a value that is computed here.
MORE_KEYS = frozenset(
    "_name_or_path _vocab_size bos_token_id cache_implementation eos_token_id hidden_act hidden_activation "
    "ignore_index image_token_id num_hidden_layers num_image_tokens num_positions pad_token_id projection_dim "
    "projector_hidden_act use_cache vision_use_head vocab_size".split()
)


class PaliGemmaBridge(VLMBridge):
    """PaliGemma 1 or 2, as the text config says; only the weights of its modules are used, see ``forward``."""

    run_layer = staticmethod(run_layer)

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, PaliGemmaForConditionalGeneration(build_config(config.vlm_config)))
        self.vision = SiglipTower(self.causal_model.model.vision_tower, config.image_mean, config.image_std)

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid)

    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        model = self.causal_model.model
        states = self.vision(inputs.pixel_values, model.vision_tower.embeddings.position_embedding.weight)
        features = model.multi_modal_projector(states)
        return EmbeddedPrefix(
            embed_prefix(self.language_model, inputs.input_ids, self.is_image(inputs), features, registers)
        )

    def make_mask(
        self, mask: Bool[Tensor, "batch 1 prefix prefix"], dtype: torch.dtype
    ) -> Float[Tensor, "batch 1 grouped_rows prefix"]:
        return grouped_bias(mask, self.language_model.layers[0].self_attn.num_key_value_groups, dtype)

    def final_norm(self, states: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows hidden"]:
        norm = self.language_model.norm
        return gemma_norm(states, norm_weight(norm), norm.eps)

    def logits(self, states: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows vocab"]:
        logits, cap = super().logits(states), getattr(self.language_model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @torch.no_grad()
    def pack_weights(self) -> None:
        super().pack_weights()
        self.packed_layers = tuple(
            PackedGemmaLayer(**vars(packed), norms=layer_norms(layer))
            for packed, layer in zip(self.packed_layers, self.language_model.layers, strict=True)
        )
        self.vision.pack_weights()


def build_config(document: Mapping[str, Any]) -> PaliGemmaConfig:
    """The transformers configuration; raises ValueError for what it doesn't know and what isn't computed here."""
    text = document.get("text_config")
    model_type = text.get("model_type") if isinstance(text, Mapping) else None
    if model_type not in TEXT_CONFIGS:
        expected = f"expected {' or '.join(TEXT_CONFIGS)}, from the backbone's config.json"
        raise ValueError(f"policy.vlm_config.text_config.model_type is {model_type!r}; {expected}")
    groups = {"text_config": TEXT_CONFIGS[model_type], "vision_config": SiglipVisionConfig}
    config = build.build_config(PaliGemmaConfig, groups, document, MORE_KEYS)
    if config.projection_dim != config.text_config.hidden_size:
        sizes = f"projection_dim is {config.projection_dim}, text_config.hidden_size {config.text_config.hidden_size}"
        raise ValueError(f"policy.vlm_config: {sizes}; make them equal")
    return config
