"""The Pi policy: a VLM encodes the observation once, a flow-matching action expert turns noise into actions.

Flow matching after Lipman et al., "Flow Matching for Generative Modeling"; flow time 1 is noise, 0 the action.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.base import BasePolicy, FlowDraws, PolicyLoss, PolicyObservation, PolicySample
from vla_ros.policies.guidance import Guidance
from vla_ros.policies.modules.action_expert.dit import (
    BlockModulation,
    DiTActionExpert,
    SuffixInput,
    TimeGrid,
    embed_time,
    freeze_rows,
)
from vla_ros.policies.modules.vlm_bridge.base import SAME_POLICY
from vla_ros.policies.modules.vlm_bridge.data_types import VLMOutputs
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.transforms.chunking import check_guidance
from vla_ros.transforms.sample import PolicyRequest


class PiPolicy(BasePolicy):
    """Built from its configuration alone, with random weights; parameter names are those of released checkpoints."""

    def __init__(self, config: PiConfig) -> None:
        super().__init__()
        self.config = config
        expert = config.action_expert_cfg
        width = expert.hidden_size
        self.vlm_bridge = BACKBONES[config.vlm_type].bridge_class()(config)
        self.obs_registers = nn.Parameter(
            config.obs_register_init_gain * torch.randn(config.num_obs_registers, self.vlm_bridge.hidden_size)
        )
        gain = config.suffix_pos_emb_init_gain
        self.position_embedding_state = nn.Parameter(gain * torch.randn(config.state_history, width))
        self.position_embedding_action = nn.Parameter(gain * torch.randn(config.action_horizon, width))
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        self.state_in_proj = nn.Linear(config.state_dim, width)
        self.time_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.action_expert = DiTActionExpert(expert, self.vlm_bridge.hidden_size)

    @property
    def knows_frozen_actions(self) -> bool:
        return self.config.max_frozen_actions > 0

    def pack_weights(self) -> None:
        self.requires_grad_(False)
        self.vlm_bridge.pack_weights()
        self.action_expert.pack_weights()

    def check_request(self, request: PolicyRequest) -> None:
        config = self.config
        shapes = (
            ("noise", request.noise.shape, (config.action_horizon, config.action_dim)),
            ("state", request.state.shape, (config.state_history, config.state_dim)),
        )
        for name, got, expected in shapes:
            if got != expected:
                raise ValueError(f"request has {name} of shape {got}; the policy expects {expected}: {SAME_POLICY}")
        check_guidance(request.previous_actions, request.guidance_weights, (config.action_horizon, config.action_dim))
        self.vlm_bridge.check_input(request.policy_input)

    def encode_prefix(self, observation: PolicyObservation, with_ce_loss: bool = False) -> VLMOutputs:
        num_layers = self.config.action_expert_cfg.num_hidden_layers
        return self.vlm_bridge.encode(observation.policy_input, self.obs_registers, num_layers, with_ce_loss)

    def make_time_grid(self, num_steps: int) -> TimeGrid:
        device = self.obs_registers.device
        times = 1.0 - torch.arange(num_steps, dtype=torch.float32, device=device) / num_steps
        clean = self._modulate(times.new_zeros(1, 1)) if self.knows_frozen_actions else None
        return TimeGrid(tuple(self._modulate(time[None, None]) for time in times), clean)

    def prepare_suffix(self, vlm_outputs: VLMOutputs, time_grid: TimeGrid | None) -> SuffixInput:
        return self.action_expert.prepare(vlm_outputs.hidden_states, vlm_outputs.pad_mask, time_grid)

    def predict_suffix(
        self,
        state: Float[Tensor, "batch history state"],
        suffix_input: SuffixInput,
        noisy_actions: Float[Tensor, "batch draws horizon action"],
        time: Float[Tensor, "batch draws"] | int,
        is_frozen: Bool[Tensor, "batch #draws horizon"] | None = None,
    ) -> Float[Tensor, "batch draws horizon action"]:
        if isinstance(time, int):
            assert suffix_input.time_grid is not None, "a step index needs a prepared time grid"
            modulations, clean = suffix_input.time_grid.steps[time], suffix_input.time_grid.clean
        else:
            modulations = self._modulate(time)
            clean = None if is_frozen is None else self._modulate(torch.zeros_like(time))
        if is_frozen is not None:
            assert clean is not None, "frozen actions need a policy that was trained with them"
            num_states = self.config.state_history if self.config.use_state else 0
            modulations = freeze_rows(modulations, clean, F.pad(is_frozen, (num_states, 0), value=False))
        hidden = self.action_expert(self._embed_suffix(state, noisy_actions), suffix_input, modulations)
        return self.action_out_proj(hidden[:, :, -self.config.action_horizon :])

    def compute_loss(self, sample: PolicySample, draws: FlowDraws | None = None) -> PolicyLoss:
        draws = draws or self._sample_draws(sample.actions)
        actions, time = sample.actions[:, None], draws.time[..., None, None]
        is_frozen = None
        if draws.num_frozen is not None:
            index = torch.arange(self.config.action_horizon, device=actions.device)
            is_frozen = index < draws.num_frozen[..., None]
            time = torch.where(is_frozen[..., None], 0.0, time)
        prefix = self.encode_prefix(sample.observation, with_ce_loss=True)
        velocity = self.predict_suffix(
            sample.observation.state,
            self.prepare_suffix(prefix, None),
            actions + time * (draws.noise - actions),
            draws.time,
            is_frozen,
        )
        flow_mse = _mean_square_error(velocity.float(), draws.noise - actions, is_frozen)
        assert prefix.ce_loss is not None
        total = flow_mse + self.config.ce_loss_weight * prefix.ce_loss
        return PolicyLoss(total, flow_mse.detach(), prefix.ce_loss.detach())

    def sample_actions(
        self,
        observation: PolicyObservation,
        num_steps: int,
        noise: Float[Tensor, "batch horizon action"],
        time_grid: TimeGrid | None = None,
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        grid = time_grid or self.make_time_grid(num_steps)
        assert grid.num_steps == num_steps, "the time grid was made for another number of steps"
        suffix_input = self.prepare_suffix(self.encode_prefix(observation), grid)
        return self.denoise(observation.state, suffix_input, noise, guidance)

    def _modulate(self, time: Float[Tensor, "batch draws"]) -> tuple[BlockModulation, ...]:
        embedded = embed_time(time, self.config.action_expert_cfg.hidden_size)
        return self.action_expert.modulate(self.time_mlp(embedded.to(self.obs_registers.dtype)))

    def _embed_suffix(self, state: Tensor, noisy_actions: Tensor) -> Float[Tensor, "batch draws suffix width"]:
        dtype = self.obs_registers.dtype
        actions = self.action_in_proj(noisy_actions.to(dtype))
        if self.config.suffix_add_pos_emb:
            actions = actions + self.position_embedding_action
        if not self.config.use_state:
            return actions
        states = self.state_in_proj(state.to(dtype))
        if self.config.suffix_add_pos_emb:
            states = states + self.position_embedding_state
        return torch.cat((states[:, None].expand(-1, actions.shape[1], -1, -1), actions), dim=2)

    def _sample_draws(self, actions: Float[Tensor, "batch horizon action"]) -> FlowDraws:
        """Noise, times ``0.999 b + 0.001`` with ``b ~ Beta(time_dist_beta, time_dist_alpha)``, and 0 up to
        ``max_frozen_actions`` frozen actions, each number as often."""
        batch, draws = actions.shape[0], self.config.num_noise_per_sample
        noise = torch.randn(batch, draws, *actions.shape[1:], device=actions.device)
        shape = actions.new_ones(batch, draws)
        beta = torch.distributions.Beta(
            shape * self.config.time_dist_beta, shape * self.config.time_dist_alpha, validate_args=False
        )
        time = 0.999 * beta.sample() + 0.001
        if not self.knows_frozen_actions:
            return FlowDraws(noise, time)
        num_frozen = torch.randint(self.config.max_frozen_actions + 1, (batch, draws), device=actions.device)
        return FlowDraws(noise, time, num_frozen)


def _mean_square_error(
    got: Float[Tensor, "batch draws horizon action"],
    expected: Float[Tensor, "batch draws horizon action"],
    is_frozen: Bool[Tensor, "batch draws horizon"] | None,
) -> Float[Tensor, ""]:
    """Over the actions that are not frozen."""
    if is_frozen is None:
        return F.mse_loss(got, expected)
    is_learned = ~is_frozen
    return ((got - expected).square() * is_learned[..., None]).sum() / (is_learned.sum() * got.shape[-1])
