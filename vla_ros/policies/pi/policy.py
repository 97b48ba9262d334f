"""The Pi policy: a VLM encodes the observation once, a flow-matching action expert turns noise into actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.base import Layer, PolicyLoss
from vla_ros.policies.modules.action_expert.dit import DiTActionExpert, FlowTimes, SuffixInput, TimeGrid
from vla_ros.policies.modules.action_expert.modulation import BlockModulation, embed_time, freeze_rows
from vla_ros.policies.modules.flow_loss import FlowDraws, FlowSettings, draw_noise, flow_error, flow_target
from vla_ros.policies.modules.flow_matching import FlowInputs, FlowMatchingPolicy
from vla_ros.policies.modules.guidance import Guidance
from vla_ros.policies.modules.vlm_bridge.base import SAME_POLICY
from vla_ros.policies.modules.vlm_bridge.data_types import PolicyObservation, PolicySample, VLMInputs, VLMOutputs
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.request import PiRequest, read_grid
from vla_ros.transforms.sample import TrainingBatch

STATE_POSITIONS, ACTION_POSITIONS = "position_embedding_state", "position_embedding_action"
ENDS = ("action_in_proj.", "action_out_proj.", "state_in_proj.")
NUM_VALIDATION_STEPS = 5


class PiPolicy(FlowMatchingPolicy):
    """Built from its configuration alone, with random weights; parameter names are those of released checkpoints."""

    parts = {"backbone": ("vlm_bridge.",), "expert": ("action_expert.",)}

    def __init__(self, config: PiConfig) -> None:
        super().__init__(config)
        expert = config.action_expert_cfg
        width = expert.hidden_size
        self.vlm_bridge = BACKBONES[config.vlm_type].bridge_class()(config)
        num_read, num_layers = expert.num_hidden_layers, len(self.vlm_bridge.language_model.layers)
        if num_read > num_layers:
            got = f"policy.action_expert_cfg.num_hidden_layers is {num_read}"
            raise ValueError(f"{got}; the backbone has {num_layers} text layers to read: give at most that")
        self.obs_registers = nn.Parameter(
            config.obs_register_init_gain * torch.randn(config.num_obs_registers, self.vlm_bridge.hidden_size)
        )
        if config.suffix_add_pos_emb:
            gain = config.suffix_pos_emb_init_gain
            self.position_embedding_state = nn.Parameter(gain * torch.randn(config.state_history, width))
            self.position_embedding_action = nn.Parameter(gain * torch.randn(config.action_horizon, width))
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        self.state_in_proj = nn.Linear(config.state_dim, width)
        self.time_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.action_expert = DiTActionExpert(expert, self.vlm_bridge.hidden_size)

    @property
    def num_steps(self) -> int:
        return self.config.num_steps

    @property
    def num_states(self) -> int:
        """How many tokens of the suffix are states."""
        return self.config.state_history if self.config.use_state else 0

    @property
    def knows_frozen_actions(self) -> bool:
        return self.config.max_frozen_actions > 0

    @property
    def prepares(self) -> tuple[nn.Module, ...]:
        modulations = (part for block in self.action_expert.blocks for part in (block.ada_mod1, block.ada_mod2))
        return (self.time_mlp, *modulations)

    @property
    def repeated(self) -> tuple[nn.Module, ...]:
        return (self.action_expert,)

    def pack_weights(self) -> None:
        self.requires_grad_(False)
        self.vlm_bridge.pack_weights()
        self.action_expert.pack_weights()

    def check_request(self, request: PiRequest) -> None:
        super().check_request(request)
        config = self.config
        shapes = (
            ("noise", request.noise.shape, (config.action_horizon, config.action_dim)),
            ("state", request.state.shape, (config.state_history, config.state_dim)),
        )
        for name, got, expected in shapes:
            if got != expected:
                raise ValueError(f"request has {name} of shape {got}; the policy expects {expected}: {SAME_POLICY}")
        self.vlm_bridge.check_input(request.policy_input)

    def unpack(self, tensors: Mapping[str, Tensor], constants: Mapping[str, str]) -> FlowInputs:
        observation = PolicyObservation(VLMInputs.from_tensors(tensors, read_grid(constants)), tensors["state"])
        return FlowInputs(observation, tensors["noise"], Guidance.from_tensors(tensors))

    def encode_prefix(self, observation: PolicyObservation, with_ce_loss: bool = False) -> VLMOutputs:
        """The cross-entropy of the targets only where a loss is computed."""
        num_layers = self.config.action_expert_cfg.num_hidden_layers
        return self.vlm_bridge.encode(observation.policy_input, self.obs_registers, num_layers, with_ce_loss)

    def make_time_grid(self, num_steps: int) -> TimeGrid:
        device = self.obs_registers.device
        times = 1.0 - torch.arange(num_steps, dtype=torch.float32, device=device) / num_steps
        clean = self._modulate(times.new_zeros(1, 1)) if self.knows_frozen_actions else None
        rotary = self.action_expert.rotary(self.num_states + self.config.action_horizon, device)
        grid = TimeGrid(tuple(self._modulate(time[None, None]) for time in times), clean, rotary)
        if self.action_expert.blocks[0].packed is None:
            return grid
        grid = self.action_expert.absorb(grid)
        return grid if device.type == "cpu" else self.action_expert.turn_at_once(grid)

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
        x = self._embed_suffix(state, noisy_actions)
        rows = None if is_frozen is None else F.pad(is_frozen, (self.num_states, 0), value=False)
        if isinstance(time, int):
            assert suffix_input.time_grid is not None, "a step index needs a prepared time grid"
            grid = suffix_input.time_grid
            if rows is None:
                modulations = (grid.absorbed or grid.steps)[time]
            else:
                assert grid.clean is not None, "frozen actions need a policy that was trained with them"
                modulations = freeze_rows(grid.steps[time], grid.clean, rows)
            hidden = self.action_expert(x, suffix_input, modulations)
        else:
            clean_time = None if rows is None else self._embed_time(torch.zeros_like(time))
            hidden = self.action_expert.run(x, suffix_input, FlowTimes(self._embed_time(time), clean_time, rows))
        return self.action_out_proj(hidden[:, :, -self.config.action_horizon :])

    def draw(self, rngs: Sequence[np.random.Generator]) -> FlowDraws:
        config = self.config
        shape = config.action_horizon, config.action_dim
        alpha, beta, num_draws = config.time_dist_alpha, config.time_dist_beta, config.num_noise_per_sample
        return FlowSettings(num_draws, shape, beta, alpha, config.max_frozen_actions).draw(rngs)

    def compute_loss(self, sample: PolicySample, draws: FlowDraws) -> PolicyLoss:
        """Flow-matching loss plus weighted cross-entropy."""
        target, state = flow_target(sample.actions, draws, sample.num_known), sample.observation.state
        prefix = self.encode_prefix(sample.observation, with_ce_loss=True)
        suffix_input = self.prepare_suffix(prefix, None)
        velocity = self.predict_suffix(state, suffix_input, target.noisy, target.time, target.is_frozen)
        assert prefix.ce_loss is not None
        answers = prefix.ce_loss._replace(weight=self.config.ce_loss_weight)
        return PolicyLoss({"flow_mse": flow_error(velocity, target, self.config.action_dim), "ce_loss": answers})

    def layers(self) -> tuple[Layer, ...]:
        return (*self.vlm_bridge.layers(), *(Layer(block, "run") for block in self.action_expert.blocks))

    def unpack_batch(self, batch: TrainingBatch, device: torch.device | str = "cpu") -> PolicySample:
        inputs = VLMInputs.from_numpy(batch.policy_input, device)
        state, actions = (torch.from_numpy(array).to(device) for array in (batch.state, batch.actions))
        return PolicySample(PolicyObservation(inputs, state), actions, batch.num_known)

    def sample_batch(
        self, sample: PolicySample, rngs: Sequence[np.random.Generator]
    ) -> Float[Tensor, "batch horizon action"]:
        return self.sample_actions(sample.observation, NUM_VALIDATION_STEPS, draw_noise(rngs, sample.actions))

    def init_vision(self, pos_emb_std: float) -> None:
        nn.init.normal_(self.vlm_bridge.causal_model.model.visual.pos_embed.weight, std=pos_emb_std)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """States and actions may be others: the layers that take and give them begin anew. Chunks may be longer: each
        further action begins as the last known one."""
        own = dict(self.named_parameters())
        for name in [name for name in weights if name.startswith(ENDS)]:
            if weights[name].shape != own[name].shape:
                weights = {**weights, name: own[name].detach()}
        known = weights.get(ACTION_POSITIONS)
        if known is None or len(known) == 0:
            return weights
        num_more = max(0, self.config.action_horizon - len(known))
        return {**weights, ACTION_POSITIONS: torch.cat((known, known[-1:].expand(num_more, -1)))}

    def backbone_name(self, name: str) -> str | None:
        return f"vlm_bridge.causal_model.{name}"

    def is_obsolete(self, name: str) -> bool:
        return name in (STATE_POSITIONS, ACTION_POSITIONS) and not self.config.suffix_add_pos_emb

    def _modulate(self, time: Float[Tensor, "batch draws"]) -> tuple[BlockModulation, ...]:
        return self.action_expert.modulate(self._embed_time(time))

    def _embed_time(self, time: Float[Tensor, "batch draws"]) -> Float[Tensor, "batch draws width"]:
        embedded = embed_time(time, self.config.action_expert_cfg.hidden_size)
        return self.time_mlp(embedded.to(self.obs_registers.dtype))

    def _embed_suffix(self, state: Tensor, noisy_actions: Tensor) -> Float[Tensor, "batch draws suffix width"]:
        dtype = self.obs_registers.dtype
        actions = self.action_in_proj(noisy_actions.to(dtype))
        if self.config.suffix_add_pos_emb:
            actions = actions + self.position_embedding_action
        if not self.num_states:
            return actions
        states = self.state_in_proj(state.to(dtype))
        if self.config.suffix_add_pos_emb:
            states = states + self.position_embedding_state
        return torch.cat((states[:, None].expand(-1, actions.shape[1], -1, -1), actions), dim=2)
