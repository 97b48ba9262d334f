"""The Qwen3-VL bridge: builds the transformers model from its config and encodes the prefix with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

from vla_ros.policies.modules.vlm_bridge.base import VLMBridge
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs, VLMOutputs
from vla_ros.policies.modules.vlm_bridge.qwen.forward import ImageFeatures, TextPlan, run_text, run_vision
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.utils.transformers import prefix_attention_mask

IGNORED = -100
# Written by released config.json files beside the declared fields; the rope keys are read by transformers itself.
LEGACY_KEYS = {"architectures", "dtype", "model_type", "rope_scaling", "rope_theta", "torch_dtype"}


class QwenBridge(VLMBridge):
    """Qwen3-VL with our own forward over its modules; weights stay under their transformers names."""

    def __init__(self, config: PiConfig) -> None:
        super().__init__()
        self.config = config
        vlm_config = build_config(config.vlm_config)
        num_read, num_layers = config.action_expert_cfg.num_hidden_layers, vlm_config.text_config.num_hidden_layers
        if num_read > num_layers:
            got = f"policy.action_expert_cfg.num_hidden_layers is {num_read}"
            raise ValueError(f"{got}; the backbone has {num_layers} text layers to read: give at most that")
        self.hidden_size = vlm_config.text_config.hidden_size
        self.causal_model = Qwen3VLForConditionalGeneration(vlm_config)
        self.causal_model.config._attn_implementation = "sdpa"

    def encode(
        self,
        inputs: VLMInputs,
        registers: Float[Tensor, "registers hidden"],
        num_recorded_layers: int,
        with_ce_loss: bool,
    ) -> VLMOutputs:
        """The prefix through vision tower and text layers.

        Where only the registers are read, the last layer computes the rows of the registers and, for the
        cross-entropy, of the tokens before a target: both are at the right end of the sequence.
        """
        num_registers, seq = registers.shape[0], inputs.input_ids.shape[1]
        num_targets = inputs.num_target_tokens if with_ce_loss else 0
        only_registers = self.config.expert_only_use_register
        num_rows = num_registers + (num_targets + 1 if num_targets else 0)
        last_rows = min(num_rows, seq + num_registers) if only_registers else seq + num_registers
        states = self._run(inputs, registers, num_recorded_layers, last_rows)
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
        return self.causal_model.model.language_model.norm(self._run(inputs, registers, 1, last_rows)[0])

    def _run(
        self, inputs: VLMInputs, registers: Tensor, num_recorded_layers: int, last_rows: int
    ) -> tuple[Tensor, ...]:
        images = run_vision(self.causal_model.model.visual, inputs, self.config.image_mean, self.config.image_std)
        register_mask = inputs.attention_mask
        if self.config.causal_mask_obs_register:
            register_mask = inputs.obs_register_att_mask
        plan = TextPlan(
            mask=prefix_attention_mask(inputs.attention_mask, register_mask, registers.shape[0]),
            position_ids=self._position_ids(inputs, registers.shape[0]),
            num_recorded_layers=num_recorded_layers,
            last_rows=last_rows,
        )
        language_model = self.causal_model.model.language_model
        embeddings = language_model.embed_tokens(inputs.input_ids)
        return run_text(language_model, embeddings, registers, ImageFeatures(self._image_mask(inputs), images), plan)

    def _image_mask(self, inputs: VLMInputs) -> Tensor:
        return inputs.input_ids == self.causal_model.config.image_token_id

    def _position_ids(self, inputs: VLMInputs, num_registers: int) -> Tensor:
        """mRoPE ids [batch, 3, prefix]: the processor's for the tokens, then those of the registers."""
        tokens = inputs.position_ids[:, :, 0]
        if self.config.zero_pos_id_for_obs_register:
            return F.pad(tokens, (0, num_registers))
        # Counted from the left, padding included, as released checkpoints were trained.
        last = inputs.attention_mask.sum(1, keepdim=True) - 1
        start = tokens[:, 0].gather(1, last) + 1
        registers = start + torch.arange(num_registers, device=tokens.device)
        return torch.cat((tokens, registers[:, None].expand(-1, 3, -1)), dim=-1)

    def _cross_entropy(self, last_state: Tensor, inputs: VLMInputs, num_registers: int) -> Float[Tensor, ""]:
        """Mean over the targets of the batch of the next token's cross-entropy; 0 without targets."""
        if inputs.target_ids is None or inputs.num_target_tokens == 0:
            return last_state.new_zeros(())
        num_targets = min(inputs.num_target_tokens, inputs.input_ids.shape[1] - 1)
        targets = inputs.target_ids[:, -num_targets:]
        before = last_state[:, -num_registers - num_targets - 1 : -num_registers - 1]
        normed = self.causal_model.model.language_model.norm(before)
        logits = self.causal_model.lm_head(normed).float()
        summed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return summed / (targets != IGNORED).sum().clamp(min=1)


def build_config(document: Mapping[str, Any]) -> Qwen3VLConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know."""
    groups = (("text_config", Qwen3VLTextConfig), ("vision_config", Qwen3VLVisionConfig))
    _check_keys(document, Qwen3VLConfig, "policy.vlm_config")
    for group, kind in groups:
        if not isinstance(document.get(group), Mapping):
            raise ValueError(f"policy.vlm_config.{group} is missing; give the group of the backbone's config.json")
        _check_keys(document[group], kind, f"policy.vlm_config.{group}")
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in document.items()}
    try:
        return Qwen3VLConfig(**plain)
    except Exception as error:
        raise ValueError(f"policy.vlm_config: refused by transformers: {' '.join(str(error).split())}") from error


def _check_keys(document: Mapping[str, Any], kind: type, where: str) -> None:
    known = {field.name for field in fields(kind)} | LEGACY_KEYS
    unknown = sorted(str(key) for key in document if key not in known)
    if unknown:
        raise ValueError(f"{where}: unknown key '{unknown[0]}'; see {kind.__name__} of transformers for the known ones")
