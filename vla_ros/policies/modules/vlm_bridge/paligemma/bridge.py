"""The PaliGemma bridge, 1 and 2: builds the transformers model from its config and encodes the prefix with its modules.

Same values as transformers' own eager forward (to rounding), for fixed shapes, without what a policy doesn't need: no
caches, no masks of its own, no host synchronisation, no rows of the last layer that nobody reads. Gemma 2 (arXiv
2408.00118, section 2) differs by norms after attention and MLP, a query scale of its own and squashed attention scores;
its sliding window is wider than any prefix. Only parameters are read, no buffers: a model that was filled from a file
has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from vla_ros.policies.base import Layer
from vla_ros.policies.modules.layers.gemma import attend_grouped, gemma_norm, norm_weight
from vla_ros.policies.modules.layers.heads import additive_mask, turned_heads
from vla_ros.policies.modules.layers.packing import PackedLayer, gated_mlp, project_qkv
from vla_ros.policies.modules.layers.siglip import SiglipTower
from vla_ros.policies.modules.vlm_bridge.base import EmbeddedPrefix, VLMBridge, read_config
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.utils.transformers import Rotary, apply_rotary

TEXT_CONFIGS = {"gemma": GemmaConfig, "gemma2": Gemma2Config}
# Written by releases, some in one group and some in another; none of them changes a value that is computed here.
MORE_KEYS = frozenset(
    "_name_or_path _vocab_size bos_token_id cache_implementation eos_token_id hidden_act hidden_activation "
    "ignore_index image_token_id num_hidden_layers num_image_tokens num_positions pad_token_id projection_dim "
    "projector_hidden_act use_cache vision_use_head vocab_size".split()
)


class LayerNorms(NamedTuple):
    """What a layer's RMS norms multiply by, ``1 + weight`` in float32; None where Gemma 1 has no such norm."""

    before_attention: Float[Tensor, "hidden"]
    after_attention: Float[Tensor, "hidden"] | None
    before_mlp: Float[Tensor, "hidden"]
    after_mlp: Float[Tensor, "hidden"] | None


@dataclass(frozen=True)
class PackedGemmaLayer(PackedLayer):
    """With the norms as they are applied."""

    norms: LayerNorms


def layer_norms(layer: nn.Module) -> LayerNorms:
    """Those of one layer; what is called ``post_attention_layernorm`` comes before the MLP in Gemma 1."""
    first, second = norm_weight(layer.input_layernorm), norm_weight(layer.post_attention_layernorm)
    if not hasattr(layer, "pre_feedforward_layernorm"):
        return LayerNorms(first, None, second, None)
    third, fourth = layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
    return LayerNorms(first, second, norm_weight(third), norm_weight(fourth))


class PaliGemmaBridge(VLMBridge):
    """PaliGemma 1 or 2, as the text config says; only the weights of its modules are used."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, PaliGemmaForConditionalGeneration(build_config(config.vlm_config)))
        self.vision = SiglipTower(self.causal_model.model.vision_tower, config.image_mean, config.image_std)

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid)

    def vision_layers(self) -> tuple[Layer, ...]:
        return self.vision.layers()

    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        return EmbeddedPrefix(self.join(inputs, self.see(inputs, self.vision), registers))

    def see(self, inputs: VLMInputs, vision: SiglipTower) -> Float[Tensor, "images image_tokens hidden"]:
        """The image tokens of all images of the batch, in order."""
        model = self.causal_model.model
        states = vision(inputs.pixel_values, model.vision_tower.embeddings.position_embedding.weight)
        return model.multi_modal_projector(states)

    def join(
        self,
        inputs: VLMInputs,
        image_features: Float[Tensor, "images image_tokens hidden"],
        registers: Float[Tensor, "registers hidden"],
    ) -> Float[Tensor, "batch prefix hidden"]:
        """Token and register embeddings times ``sqrt(hidden)``, image features as they are."""
        table, is_image = self.language_model.embed_tokens.weight, self.is_image(inputs)
        known = inputs.input_ids.masked_fill(is_image.squeeze(-1), 0)  # an image token's id may lie beyond the table
        tokens = F.embedding(known, table)
        x = torch.cat((tokens, registers.to(table.dtype).expand(len(tokens), -1, -1)), dim=1)
        scale = torch.full((), x.shape[-1] ** 0.5, dtype=x.dtype, device=x.device)  # rounded as the embeddings are
        mask = F.pad(is_image, (0, 0, 0, len(registers)))
        return (x * scale).masked_scatter(mask, image_features.to(x.dtype))

    def make_mask(
        self, mask: Bool[Tensor, "batch 1 prefix prefix"], dtype: torch.dtype
    ) -> Float[Tensor, "batch 1 grouped_rows prefix"]:
        """What is added to attention scores; each row as often as heads share a key head."""
        return additive_mask(mask, dtype, repeats=self.language_model.layers[0].self_attn.num_key_value_groups)

    def run_layer(
        self,
        layer: Any,
        packed: PackedGemmaLayer | None,
        x: Float[Tensor, "batch prefix hidden"],
        rotary: Rotary,
        bias: Float[Tensor, "batch 1 grouped_rows prefix"],
        num_rows: int,
    ) -> Float[Tensor, "batch rows hidden"]:
        norms = layer_norms(layer) if packed is None else packed.norms
        attn, eps = layer.self_attn, layer.input_layernorm.eps
        normed = gemma_norm(x, norms.before_attention, eps)
        if packed is not None and num_rows == x.shape[1]:
            queries, keys, values = turned_heads(packed.qkv, normed, attn.head_dim, rotary)
        else:
            projected = project_qkv(attn, packed, normed, num_rows)
            queries, keys, values = (heads.unflatten(-1, (-1, attn.head_dim)) for heads in projected)
            queries, keys = apply_rotary(queries, rotary.last(num_rows)), apply_rotary(keys, rotary)
        cap = getattr(attn, "attn_logit_softcapping", None)
        heads = attend_grouped(queries, keys.transpose(1, 2), values.transpose(1, 2), bias, attn.scaling, cap)
        attended = attn.o_proj(heads)
        x = x[:, -num_rows:] + gemma_norm(attended, norms.after_attention, eps)
        return x + gemma_norm(gated_mlp(layer.mlp, packed, gemma_norm(x, norms.before_mlp, eps)), norms.after_mlp, eps)

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
    config = read_config(PaliGemmaConfig, groups, document, MORE_KEYS)
    if config.projection_dim != config.text_config.hidden_size:
        sizes = f"projection_dim is {config.projection_dim}, text_config.hidden_size {config.text_config.hidden_size}"
        raise ValueError(f"policy.vlm_config: {sizes}; make them equal")
    return config
