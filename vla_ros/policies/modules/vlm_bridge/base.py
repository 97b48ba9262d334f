"""The interface between a policy and its VLM backbone, and what every backbone does alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla_ros.policies.base import Layer, LossTerm
from vla_ros.policies.modules.action_expert.config import MAX_LAYERS
from vla_ros.policies.modules.layers.heads import additive_mask
from vla_ros.policies.modules.layers.llama import attend, finish_layer, read_heads, rms_norm_of
from vla_ros.policies.modules.layers.packing import PackedLayer, pack_layer
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs, VLMOutputs
from vla_ros.policies.modules.vlm_bridge.inputs import IGNORED, PolicyInput, PrefixConfig
from vla_ros.policies.utils.transformers import Rotary, inverse_frequencies, make_rotary
from vla_ros.strict import explained, leaves, quoted

SAME_POLICY = "give both nodes the same policy directory"
# Far beyond any model there is.
MAX_NUMBER, _LAYERS = 1 << 24, ("layers", ".depth")
# Written by released config.json files beside the declared fields; the rope keys are read by transformers itself.
LEGACY_KEYS = {"architectures", "dtype", "model_type", "rope_scaling", "rope_theta", "torch_dtype"}


class EmbeddedPrefix(NamedTuple):
    """What enters the first text layer, and what is added to the output of each of the first layers, where there is
    such."""

    states: Float[Tensor, "batch prefix hidden"]
    added: tuple[Float[Tensor, "batch prefix hidden"], ...] = ()


class VLMBridge(nn.Module, ABC):
    """Runs one kind of VLM over tokens and registers; the transformers model is ``causal_model``.

    Its weights keep their transformers names; its forward pass is ours, over the model's modules. ``make_mask`` is what
    ``run_layer`` wants to know of who sees whom.
    """

    def __init__(self, config: PrefixConfig, causal_model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.causal_model = causal_model
        self.packed_layers: tuple[PackedLayer | None, ...] = (None,) * len(self.language_model.layers)

    @property
    def language_model(self) -> Any:
        """The text transformer: ``layers``, ``embed_tokens``, ``norm``."""
        return self.causal_model.model.language_model

    @property
    def hidden_size(self) -> int:
        return self.language_model.config.hidden_size

    @property
    def image_token_id(self) -> int:
        """The token whose place an image feature takes."""
        return self.causal_model.config.image_token_id

    @abstractmethod
    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        """How many of them an image of ``grid`` (time, height, width) patches fills."""

    @abstractmethod
    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        """The prefix before the first text layer: tokens, image features in their places, then the registers."""

    def make_rotary(self, position_ids: Int64[Tensor, "batch axes prefix"]) -> Rotary:
        """The rotary embedding of the text layers, here for one axis."""
        config = self.language_model.config
        frequencies = inverse_frequencies(config.head_dim, config.rope_parameters["rope_theta"], position_ids.device)
        return make_rotary(position_ids.transpose(1, 2).float() * frequencies)

    def make_mask(self, mask: Bool[Tensor, "batch 1 prefix prefix"], dtype: torch.dtype) -> Tensor:
        """From True where a query may read a key, once for all layers."""
        return mask if torch.is_grad_enabled() else additive_mask(mask, dtype)

    def run_layer(
        self,
        layer: Any,
        packed: PackedLayer | None,
        x: Float[Tensor, "batch prefix hidden"],
        rotary: Rotary,
        mask: Tensor,
        num_rows: int,
    ) -> Float[Tensor, "batch rows hidden"]:
        """One text layer, of which only the last ``num_rows`` positions are computed: here Llama's and Qwen's."""
        heads = read_heads(layer, packed, x, rotary, num_rows)
        return finish_layer(layer, packed, x[:, -num_rows:], attend(heads, mask[:, :, -num_rows:]))

    def final_norm(self, states: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows hidden"]:
        """The norm before the language-model head."""
        return rms_norm_of(self.language_model.norm, states)

    def logits(self, states: Float[Tensor, "batch rows hidden"]) -> Float[Tensor, "batch rows vocab"]:
        """The language-model head's, of states before the final norm."""
        return self.causal_model.lm_head(self.final_norm(states))

    def check_input(self, inputs: PolicyInput) -> None:
        """Look at one observation on the host before anything runs: on a GPU, a token beyond the embeddings ends the
        whole process.

        Raises ValueError for an input that another policy's processor made.
        """
        ids, num_registers = inputs.input_ids, self.config.num_obs_registers
        is_image = ids == self.image_token_id
        expected = sum(map(self.num_image_tokens, inputs.image_grid))
        if int(is_image.sum()) != expected:
            got = f"request has {int(is_image.sum())} image tokens"
            raise ValueError(f"{got}; its images fill {expected}: {SAME_POLICY}")
        num_embeddings = self.language_model.embed_tokens.num_embeddings
        if ((ids < 0) | ((ids >= num_embeddings) & ~is_image)).any():
            raise ValueError(f"request has a token outside 0..{num_embeddings - 1}: {SAME_POLICY}")
        if len(inputs.prefix_mask) != len(ids) + num_registers:
            got = f"request has a prefix of {len(inputs.prefix_mask)} for {len(ids)} tokens"
            raise ValueError(f"{got}; the policy has {num_registers} registers: {SAME_POLICY}")

    def layers(self) -> tuple[Layer, ...]:
        """The repeated parts, in the order in which they run."""
        return (*self.vision_layers(), *(Layer(layer, "run_layer", self) for layer in self.language_model.layers))

    @abstractmethod
    def vision_layers(self) -> tuple[Layer, ...]:
        """Those of the vision tower."""

    def pack_weights(self) -> None:
        """Lay the text layers' weights out for inference."""
        self.packed_layers = tuple(pack_layer(layer.self_attn, layer.mlp) for layer in self.language_model.layers)

    def encode(
        self,
        inputs: VLMInputs,
        registers: Float[Tensor, "registers hidden"],
        num_recorded_layers: int,
        with_ce_loss: bool,
    ) -> VLMOutputs:
        """Encode the prefix and record the last ``num_recorded_layers`` text layers; cross-entropy only on demand.

        Where only the registers are read, the last layer computes the rows of the registers and, for the
        cross-entropy, of the tokens before a target: both are at the right end of the sequence.
        """
        num_registers, seq = registers.shape[0], inputs.input_ids.shape[1]
        num_targets = inputs.num_target_tokens if with_ce_loss else 0
        only_registers = self.config.expert_only_use_register
        num_rows = num_registers + (num_targets + 1 if num_targets else 0)
        last_rows = min(num_rows, seq + num_registers) if only_registers else seq + num_registers
        states = self.run(inputs, registers, num_recorded_layers, last_rows)
        recorded = tuple(state[:, -num_registers:] if only_registers else state for state in states)
        if self.config.detach_encoder_output:
            recorded = tuple(state.detach() for state in recorded)
        pad_mask = None
        if not only_registers:
            pad_mask = F.pad(inputs.attention_mask, (0, num_registers), value=True)
        ce_loss = self._cross_entropy(states[-1], inputs, num_registers) if with_ce_loss else None
        return VLMOutputs(recorded, pad_mask, ce_loss)

    def final_states(
        self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]
    ) -> Float[Tensor, "batch prefix hidden"]:
        """Every position of the prefix after the final norm: what a language-model head would read."""
        last_rows = inputs.input_ids.shape[1] + registers.shape[0]
        return self.final_norm(self.run(inputs, registers, 1, last_rows)[0])

    def run(
        self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"], num_recorded_layers: int, last_rows: int
    ) -> tuple[Float[Tensor, "batch rows hidden"], ...]:
        """The states after the last ``num_recorded_layers`` text layers, before the final norm: all positions, but of
        the very last layer ``last_rows``."""
        x, added = self.embed(inputs, registers)
        rotary = self.make_rotary(inputs.position_ids).like(x)
        mask = self.make_mask(inputs.prefix_mask[:, None], x.dtype)
        recorded, last = [], len(self.packed_layers) - 1
        for i, layer in enumerate(self.language_model.layers):
            num_rows = last_rows if i == last else x.shape[1]
            x = self.run_layer(layer, self.packed_layers[i], x, rotary, mask, num_rows)
            if i < len(added):
                x = x + added[i][:, -num_rows:]
            if i > last - num_recorded_layers:
                recorded.append(x)
        return tuple(recorded)

    def join(
        self,
        inputs: VLMInputs,
        image_features: Float[Tensor, "images image_tokens hidden"],
        registers: Float[Tensor, "registers hidden"],
    ) -> Float[Tensor, "batch prefix hidden"]:
        """Token embeddings with image features in their places, then the registers."""
        embeddings = self.language_model.embed_tokens(inputs.input_ids)
        tokens = embeddings.masked_scatter(self.is_image(inputs), image_features.to(embeddings.dtype))
        return torch.cat((tokens, registers.expand(len(tokens), -1, -1)), dim=1)

    def is_image(self, inputs: VLMInputs) -> Bool[Tensor, "batch seq 1"]:
        """Where image features go."""
        return (inputs.input_ids == self.image_token_id).unsqueeze(-1)

    def _cross_entropy(self, last_state: Tensor, inputs: VLMInputs, num_registers: int) -> LossTerm:
        """The next token's cross-entropy over the targets of the batch. Without any it is 0 of the same weights: other
        parts of a batch that is split may have some."""
        seq = inputs.input_ids.shape[1]
        num_targets = min(inputs.num_target_tokens, seq - 1)
        targets = (inputs.input_ids if inputs.target_ids is None else inputs.target_ids)[:, seq - num_targets :]
        before = last_state[:, -num_registers - num_targets - 1 : -num_registers - 1]
        logits = self.logits(before).float()
        summed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return LossTerm(summed, inputs.num_targets)


def read_config(
    kind: type, groups: Mapping[str, type], document: Mapping[str, Any], more_keys: frozenset[str] = frozenset()
) -> Any:
    """The transformers configuration ``kind(**document)``, where ``groups`` names mappings inside it and their classes.

    ``more_keys`` are those that releases of this backbone write besides. Raises ValueError for a missing group and for
    a key or a value that transformers doesn't take or this package doesn't compute.
    """
    _check_keys(document, kind, "policy.vlm_config", more_keys)
    for group, group_kind in groups.items():
        if not isinstance(document.get(group), Mapping):
            raise ValueError(f"policy.vlm_config.{group} is missing; give the group of the backbone's config.json")
        _check_keys(document[group], group_kind, f"policy.vlm_config.{group}", more_keys)
    _check_sizes(document)
    with explained("policy.vlm_config: refused by transformers: ", Exception):
        config = kind(**deepcopy(dict(document)))  # transformers writes into what it is given
    rope_type = config.text_config.rope_parameters["rope_type"]
    if rope_type != "default":
        raise ValueError(f"policy.vlm_config.text_config: rope_type is '{rope_type}'; only 'default' is computed here")
    return config


def _check_sizes(document: Mapping[str, Any]) -> None:
    """Raises ValueError for a number of layers, or any other, that no model has."""
    for where, value in leaves(document, "policy.vlm_config"):
        most = MAX_LAYERS if where.endswith(_LAYERS) else MAX_NUMBER
        if type(value) is int and not -MAX_NUMBER <= value <= most:
            raise ValueError(f"{where} is {value}; expected at most {most}")
        if type(value) is int and where.endswith("_heads") and value < 1:
            raise ValueError(f"{where} is {value}; expected at least 1")


def _check_keys(document: Mapping[str, Any], kind: type, where: str, more_keys: frozenset[str]) -> None:
    known = {field.name for field in fields(kind)} | LEGACY_KEYS | more_keys
    unknown = sorted(str(key) for key in document if key not in known)
    if unknown:
        key = quoted(unknown[0])
        raise ValueError(f"{where}: unknown key '{key}'; see {kind.__name__} of transformers for the known ones")
