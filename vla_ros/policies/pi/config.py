"""Configuration of the Pi policy. Imports no torch, so that the host side can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla_ros.policies.config import POLICY_TYPES, VLM_TYPES

QK_NORMS = ("layernorm", "rmsnorm", "none")


@dataclass(frozen=True)
class ActionExpertConfig:
    """The DiT action expert: ``num_hidden_layers * cross_attention_every`` blocks."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_hidden_layers: int
    cross_attention_every: int = 2
    only_attend_to_final_layer: bool = False
    qk_norm: str = "layernorm"
    rotary_self_attn: bool = True
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    attention_bias: bool = True

    def __post_init__(self) -> None:
        if self.qk_norm not in QK_NORMS:
            raise ValueError(f"action_expert_cfg.qk_norm is '{self.qk_norm}'; expected one of {', '.join(QK_NORMS)}")
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"{self.num_attention_heads} heads, {self.num_key_value_heads} key/value heads"
            raise ValueError(f"action_expert_cfg: {heads}; the first must be a multiple of the second")
        if self.cross_attention_every < 1 or self.head_dim % 2 or self.hidden_size % 2:
            raise ValueError("action_expert_cfg: cross_attention_every must be >= 1, head_dim and hidden_size even")


@dataclass(frozen=True)
class PiConfig:
    """The ``policy:`` group of a policy.yaml.

    ``vlm_config`` is the backbone's own configuration (a transformers config.json as a mapping); ``image_mean`` and
    ``image_std`` normalise pixels in 0..1, by channel; ``num_steps`` is the number of Euler steps of an inference;
    ``max_frozen_actions`` is up to how many actions of a chunk training gives clean, for real-time chunking without
    gradients.
    """

    type: str
    vlm_type: str
    vlm_config: Mapping[str, Any]
    action_expert_cfg: ActionExpertConfig
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int = 1
    use_state: bool = True
    num_steps: int = 10
    num_obs_registers: int = 8
    expert_only_use_register: bool = True
    causal_mask_obs_register: bool = True
    zero_pos_id_for_obs_register: bool = True
    suffix_add_pos_emb: bool = True
    num_noise_per_sample: int = 1
    max_frozen_actions: int = 0
    time_dist_alpha: float = 1.0
    time_dist_beta: float = 1.5
    detach_encoder_output: bool = False
    ce_loss_weight: float = 0.1
    obs_register_init_gain: float = 0.02
    suffix_pos_emb_init_gain: float = 0.02
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.type not in POLICY_TYPES:
            raise ValueError(f"policy.type is '{self.type}'; expected one of {', '.join(POLICY_TYPES)}")
        if self.vlm_type not in VLM_TYPES:
            raise ValueError(f"policy.vlm_type is '{self.vlm_type}'; expected one of {', '.join(VLM_TYPES)}")
        for name in ("action_horizon", "action_dim", "state_dim", "state_history", "num_steps", "num_noise_per_sample"):
            if getattr(self, name) < 1:
                raise ValueError(f"policy.{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.max_frozen_actions < self.action_horizon:
            expected = f"at least 0 and below action_horizon, {self.action_horizon}"
            raise ValueError(f"policy.max_frozen_actions is {self.max_frozen_actions}; expected {expected}")
        if self.expert_only_use_register and self.num_obs_registers < 1:
            raise ValueError("policy.expert_only_use_register needs num_obs_registers of at least 1")
