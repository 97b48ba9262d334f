"""The PaliGemma bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from vla_ros.policies.modules.layers.packing import PackedLinear
from vla_ros.policies.modules.layers.siglip import pack_siglip, run_siglip
from vla_ros.policies.modules.vlm_bridge import build
from vla_ros.policies.modules.vlm_bridge.base import PrefixPlan, VLMBridge
from vla_ros.policies.modules.vlm_bridge.config import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.paligemma.forward import (
    PackedGemmaLayer,
    embed_prefix,
    gemma_norm,
    layer_norms,
    norm_weight,
    run_text,
)
from vla_ros.policies.modules.vlm_bridge.paligemma.processor import image_token_id

TEXT_CONFIGS = {"gemma": GemmaConfig, "gemma2": Gemma2Config}
# Written by releases, some in one group and some in another; none of them changes a value that is computed here.
MORE_KEYS = frozenset(
    "_name_or_path _vocab_size bos_token_id cache_implementation eos_token_id hidden_act hidden_activation "
    "ignore_index image_token_id num_hidden_layers num_image_tokens num_positions pad_token_id projection_dim "
    "projector_hidden_act use_cache vision_use_head vocab_size".split()
)


class PaliGemmaBridge(VLMBridge):
    """PaliGemma 1 or 2, as the text config says; only the weights of its modules are used, see ``forward``."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, PaliGemmaForConditionalGeneration(build_config(config.vlm_config)))
        self.packed_vision: tuple[PackedLinear | None, ...] = (None,) * len(self._vision_tower.encoder.layers)

    @property
    def language_model(self) -> Any:
        return self.causal_model.model.language_model

    @property
    def image_token_id(self) -> int:
        return image_token_id(self.config.vlm_config)

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid)

    def run(
        self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"], plan: PrefixPlan
    ) -> tuple[Float[Tensor, "batch rows hidden"], ...]:
        features = self._image_features(inputs)
        x = embed_prefix(self.language_model, inputs.input_ids, self.image_token_id, features, registers)
        return run_text(self.language_model, self.packed_layers, x, plan)

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
        self.packed_vision = pack_siglip(self._vision_tower)

    @property
    def _vision_tower(self) -> Any:
        return self.causal_model.model.vision_tower

    def _image_features(self, inputs: VLMInputs) -> Float[Tensor, "images patches hidden"]:
        positions = self._vision_tower.embeddings.position_embedding.weight
        patches = inputs.pixel_values.reshape(-1, len(positions), inputs.pixel_values.shape[-1])
        mean, std = self.config.image_mean, self.config.image_std
        states = run_siglip(self._vision_tower, self.packed_vision, patches, positions, mean, std)
        return self.causal_model.model.multi_modal_projector(states)


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
    rope_type = config.text_config.rope_parameters["rope_type"]
    if rope_type != "default":
        raise ValueError(f"policy.vlm_config.text_config: rope_type is '{rope_type}'; only 'default' is computed")
    return config
