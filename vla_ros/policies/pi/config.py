"""Configuration of the Pi policy. Imports no torch, so that the host side can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.strict import check_choice, check_range

# Far beyond any policy there is: what a file says decides how much is computed.
MAX_SIZE, MAX_STEPS = 10_000, 1000


@dataclass(frozen=True)
class PiConfig(PolicyConfig, PrefixConfig):
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
        check_choice("policy.vlm_type", self.vlm_type, BACKBONES)
        check_range("policy.", self, 1, MAX_SIZE, "action_horizon", "action_dim", "state_dim")
        check_range("policy.", self, 1, MAX_STEPS, "num_steps", "num_noise_per_sample")
        check_range("policy.", self, 0, MAX_STEPS, "state_history", "num_obs_registers")
        if not 0 <= self.max_frozen_actions < self.action_horizon:
            expected = f"at least 0 and below action_horizon, {self.action_horizon}"
            raise ValueError(f"policy.max_frozen_actions is {self.max_frozen_actions}; expected {expected}")
        if self.expert_only_use_register and self.num_obs_registers < 1:
            raise ValueError("policy.expert_only_use_register needs num_obs_registers of at least 1")
