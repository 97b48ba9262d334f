"""The SmolVLA policy: a small VLM encodes the observation once, an expert beside it turns noise into actions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla_ros.policies.base import Layer, PolicyLoss
from vla_ros.policies.modules.action_expert.dit import KeysValues
from vla_ros.policies.modules.flow_loss import FlowDraws, FlowSettings, draw_noise, flow_error, flow_target
from vla_ros.policies.modules.flow_matching import FlowInputs, FlowMatchingPolicy
from vla_ros.policies.modules.guidance import Guidance
from vla_ros.policies.modules.layers.flow_time import embed_flow_time
from vla_ros.policies.modules.layers.heads import additive_mask, aligned
from vla_ros.policies.modules.layers.llama import attend, finish_layer, read_heads
from vla_ros.policies.modules.layers.packing import PackedLayer, pack_layer
from vla_ros.policies.modules.layers.siglip import SiglipTower
from vla_ros.policies.modules.vlm_bridge.smolvlm.bridge import build_model, see
from vla_ros.policies.smolvla.config import SmolVLAConfig
from vla_ros.policies.smolvla.expert import Expert, HeadSizes, SuffixView, repeat
from vla_ros.policies.smolvla.request import SmolVLARequest
from vla_ros.policies.utils.transformers import Rotary, constant, inverse_frequencies, make_rotary, rotary_angles
from vla_ros.transforms.sample import TrainingBatch

THETA = 10_000.0  # whatever the backbone was trained with
NUM_VALIDATION_STEPS = 5
SAME_POLICY = "give both nodes the same policy directory"


@dataclass(frozen=True)
class SmolVLAObservation:
    """A request's tensors, batched and on the device."""

    pictures: Float[Tensor, "batch cameras side side 3"]
    tokens: Int64[Tensor, "batch text"]
    token_mask: Bool[Tensor, "batch text"]
    state: Float[Tensor, "batch 1 state"]


@dataclass(frozen=True)
class SmolVLASample:
    """A training sample: an observation and the normalised actions that followed it, of which the first ``num_known``
    int64 [batch] are learned (None: all)."""

    observation: SmolVLAObservation
    actions: Float[Tensor, "batch horizon action"]
    num_known: np.ndarray | None = None


@dataclass(frozen=True)
class PrefixTokens:
    """What enters the text layers, the state last; ``is_valid`` is False at padding."""

    states: Float[Tensor, "batch prefix hidden"]
    is_valid: Bool[Tensor, "batch prefix"]

    @property
    def positions(self) -> Int64[Tensor, "batch prefix"]:
        """Padding has none of its own."""
        return self.is_valid.cumsum(-1) - 1

    @property
    def mask(self) -> Bool[Tensor, "batch 1 prefix prefix"]:
        """True where a row may see a column."""
        return self.is_valid[:, None, None] & _state_mask(self.is_valid.shape[1], self.is_valid.device)


@dataclass(frozen=True)
class Prefix:
    """What is kept of it: each read text layer's keys, turned, and values."""

    layers: tuple[KeysValues, ...]
    is_valid: Bool[Tensor, "batch prefix"]


@dataclass(frozen=True)
class TimeGrid:
    """Euler steps from flow time 1: what each adds to the suffix's first layer."""

    steps: tuple[Float[Tensor, "1 1 width"], ...]

    @property
    def num_steps(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class SuffixInput:
    """``time_grid`` is None where flow times vary (training)."""

    prefixes: tuple[KeysValues, ...]  # as each layer reads them; as the text layers have them without a time grid
    view: SuffixView
    time_grid: TimeGrid | None


class SmolVLAPolicy(FlowMatchingPolicy):
    """Built from its configuration alone, with random weights."""

    parts = {"backbone": ("vlm.",), "expert": ("expert.",)}
    knows_frozen_actions = False

    def __init__(self, config: SmolVLAConfig) -> None:
        super().__init__(config)
        width = config.expert_hidden_size
        self.vlm = build_model(config.vlm_config, config.num_vlm_layers)
        text = self.vlm.text_model.config
        sizes = HeadSizes(text.num_attention_heads, text.num_key_value_heads, text.head_dim, text.rms_norm_eps)
        is_cross = tuple(not config.attends_to_itself(layer) for layer in config.read_layers)
        self.expert = Expert(width, config.expert_intermediate_size, sizes, is_cross)
        self.state_proj = nn.Linear(config.max_state_dim, text.hidden_size)
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.action_out_proj = nn.Linear(width, config.max_action_dim)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)
        self.vision = SiglipTower(self.vlm.vision_model, (0.5,) * 3, (0.5,) * 3)
        self._packed: tuple[PackedLayer | None, ...] = (None,) * config.num_vlm_layers
        if config.train_expert_only:
            self.vlm.requires_grad_(False)

    @property
    def num_steps(self) -> int:
        return self.config.num_steps

    @property
    def dtype(self) -> torch.dtype:
        return self.state_proj.weight.dtype

    @property
    def repeated(self) -> tuple[nn.Module, ...]:
        return (self.expert,)

    def pack_weights(self) -> None:
        self.requires_grad_(False)
        self.vision.pack_weights()
        self._packed = tuple(pack_layer(layer.self_attn, layer.mlp) for layer in self.vlm.text_model.layers)
        self.expert.pack_weights()

    def check_request(self, request: SmolVLARequest) -> None:
        super().check_request(request)
        config, vision = self.config, self.vlm.vision_model.embeddings
        shapes = (
            ("noise", request.noise.shape, (config.action_horizon, config.max_action_dim)),
            ("state", request.state.shape, (1, config.state_dim)),
            ("pictures", request.pictures.shape[1:], (vision.image_size, vision.image_size, 3)),
        )
        for name, got, expected in shapes:
            if got != expected:
                raise ValueError(f"request has {name} of shape {got}; the policy expects {expected}: {SAME_POLICY}")
        num_embeddings = self.vlm.text_model.embed_tokens.num_embeddings
        if not ((request.tokens >= 0) & (request.tokens < num_embeddings)).all():
            raise ValueError(f"request has a token outside 0..{num_embeddings - 1}: {SAME_POLICY}")

    def unpack(self, tensors: Mapping[str, Tensor], constants: Mapping[str, str]) -> FlowInputs:
        return FlowInputs(_observation(tensors), tensors["noise"], Guidance.from_tensors(tensors))

    def encode_prefix(self, observation: SmolVLAObservation) -> Prefix:
        read = self.config.read_layers
        tokens = self.embed_prefix(observation)
        layers = self.run_prefix(tokens, read[-1] + 1)
        return Prefix(tuple(layers[i] for i in read), tokens.is_valid)

    def embed_prefix(self, observation: SmolVLAObservation) -> PrefixTokens:
        """Each image, beside its special tokens where it has them, then the instruction, then the state."""
        config, embed, images = self.config, self.vlm.text_model.embed_tokens, self.see_pictures(observation)
        batch, num_cameras, _, width = images.shape
        scale, parts = width**0.5, [images * width**0.5]
        if config.image_tokens:
            special = embed(_token_ids(config.image_tokens, images.device)).expand(batch, num_cameras, -1, -1)
            parts = [torch.cat((special, parts[0], special[:, :, :1]), dim=2)]
            empty = _token_ids((*config.image_tokens, config.image_tokens[0]) * config.num_empty_cameras, images.device)
            parts.append(embed(empty).expand(batch, 1, -1, -1))
        state = F.pad(observation.state, (0, config.max_state_dim - config.state_dim)).to(self.dtype)
        seen = [part.flatten(1, 2) for part in parts]
        states = torch.cat((*seen, embed(observation.tokens) * scale, self.state_proj(state)), dim=1)
        num_seen = sum(part.shape[1] for part in seen)
        return PrefixTokens(states, F.pad(F.pad(observation.token_mask, (num_seen, 0), value=True), (0, 1), value=True))

    def see_pictures(self, observation: SmolVLAObservation) -> Float[Tensor, "batch cameras image_tokens hidden"]:
        """Their tokens, not yet scaled."""
        pixels = observation.pictures.flatten(0, 1).permute(0, 3, 1, 2).to(self.dtype)
        images = see(self.vlm, self.vision, pixels, rounds_down=False)
        return images.unflatten(0, observation.pictures.shape[:2])

    def run_prefix(self, tokens: PrefixTokens, num_layers: int) -> tuple[KeysValues, ...]:
        """The keys, turned, and values of the first ``num_layers`` text layers; the last gives nothing else."""
        x, mask = tokens.states, tokens.mask
        rotary, kept = self._rotary(tokens.positions).like(x), []
        if not torch.is_grad_enabled():
            mask = additive_mask(mask, x.dtype)
        for layer, packed in zip(self.vlm.text_model.layers[:num_layers], self._packed, strict=False):
            x, keys, values = self.run_text_layer(layer, packed, x, rotary, mask, len(kept) == num_layers - 1)
            kept.append(KeysValues(keys, values))
        return tuple(kept)

    def run_text_layer(
        self, layer: Any, packed: PackedLayer | None, x: Tensor, rotary: Rotary, mask: Tensor, only_reads: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The prefix after one layer (before it, where it ``only_reads``), and its keys and values."""
        heads = read_heads(layer, packed, x, rotary, x.shape[1])
        if not only_reads:
            x = finish_layer(layer, packed, x, attend(heads, mask))
        return x, heads.keys, heads.values

    def make_time_grid(self, num_steps: int) -> TimeGrid:
        times = [1.0 + step * (-1.0 / num_steps) for step in range(num_steps)]
        device = self.state_proj.weight.device
        return TimeGrid(tuple(self._embed_time(_number(time, device))[:, None] for time in times))

    def prepare_suffix(self, prefix: Prefix, time_grid: TimeGrid | None) -> SuffixInput:
        prefixes = prefix.layers
        if time_grid is not None:
            prefixes = tuple(layer.read(kept) for layer, kept in zip(self.expert.layers, prefix.layers, strict=True))
        horizon, values = self.config.action_horizon, prefixes[0].values
        over_prefix = additive_mask(prefix.is_valid[:, None, None], values.dtype)
        causal = _causal_bias(horizon, values.dtype, values.device).expand(len(values), 1, -1, -1)
        places = torch.arange(horizon, device=values.device)
        view = SuffixView(
            over_prefix=over_prefix,
            over_both=aligned(torch.cat((over_prefix.expand(-1, -1, horizon, -1), causal), dim=-1)),
            turned_alone=rotary_angles(horizon, values.shape[-1], THETA, values.device).like(values),
            turned_behind=self._rotary(prefix.is_valid.sum(-1, keepdim=True) + places).like(values),
        )
        return SuffixInput(prefixes, view, time_grid)

    def predict_suffix(
        self,
        state: Float[Tensor, "batch 1 state"],
        suffix_input: SuffixInput,
        noisy_actions: Float[Tensor, "batch draws horizon padded_action"],
        time: Float[Tensor, "batch draws"] | int,
        is_frozen: Bool[Tensor, "batch #draws horizon"] | None = None,
    ) -> Float[Tensor, "batch draws horizon padded_action"]:
        """The state is in the prefix; no action is ever frozen."""
        assert is_frozen is None, "this policy was not trained with given actions"
        hidden = self.run_suffix(suffix_input, self.embed_suffix(suffix_input, noisy_actions, time))
        return self.action_out_proj(hidden)

    def embed_suffix(
        self,
        suffix_input: SuffixInput,
        noisy_actions: Float[Tensor, "batch draws horizon padded_action"],
        time: Float[Tensor, "batch draws"] | int,
    ) -> Float[Tensor, "batch draws horizon width"]:
        """Actions and their flow time through two layers; the time's share of the first was computed before."""
        width = self.config.expert_hidden_size
        if isinstance(time, int):
            assert suffix_input.time_grid is not None, "a step index needs a prepared time grid"
            of_time = suffix_input.time_grid.steps[time]
        else:
            of_time = self._embed_time(time)[:, :, None]
        actions = self.action_in_proj(noisy_actions.to(self.dtype))
        mixed = F.linear(actions, self.action_time_mlp_in.weight[:, :width]) + of_time
        return self.action_time_mlp_out(F.silu(mixed))

    def run_suffix(
        self, suffix_input: SuffixInput, suffix: Float[Tensor, "batch draws horizon width"]
    ) -> Float[Tensor, "batch draws horizon width"]:
        """After the expert's final norm; several draws of noise share their sample's prefix."""
        prefixes, view, draws = suffix_input.prefixes, suffix_input.view, suffix.shape[1]
        if draws > 1:
            behind = Rotary(*repeat(view.turned_behind, draws))
            view = SuffixView(*repeat((view.over_prefix, view.over_both), draws), view.turned_alone, behind)
        rows = suffix.flatten(0, 1)
        if suffix_input.time_grid is None:
            hidden = self.expert.run(rows, prefixes, view)
        else:
            hidden = self.expert(rows, tuple(KeysValues(*repeat(kept, draws)) for kept in prefixes), view)
        return hidden.unflatten(0, suffix.shape[:2])

    def draw(self, rngs: Sequence[np.random.Generator]) -> FlowDraws:
        config = self.config
        shape, num_draws = (config.action_horizon, config.max_action_dim), config.num_noise_per_sample
        return FlowSettings(num_draws, shape, config.time_dist_beta, config.time_dist_alpha).draw(rngs)

    def compute_loss(self, sample: SmolVLASample, draws: FlowDraws) -> PolicyLoss:
        """The flow-matching loss over the actions that there are; ``draws`` are padded."""
        config = self.config
        padded = F.pad(sample.actions, (0, config.max_action_dim - config.action_dim))
        target = flow_target(padded, draws, sample.num_known)
        suffix_input = self.prepare_suffix(self.encode_prefix(sample.observation), None)
        velocity = self.predict_suffix(sample.observation.state, suffix_input, target.noisy, target.time)
        return PolicyLoss({"flow_mse": flow_error(velocity, target, config.action_dim)})

    def layers(self) -> tuple[Layer, ...]:
        text = self.vlm.text_model.layers[: self.config.read_layers[-1] + 1]
        expert = (Layer(layer, "run") for layer in self.expert.layers)
        return (*self.vision.layers(), *(Layer(layer, "run_text_layer", self) for layer in text), *expert)

    def unpack_batch(self, batch: TrainingBatch, device: torch.device | str = "cpu") -> SmolVLASample:
        arrays = {**batch.policy_input, "state": batch.state, "actions": batch.actions}
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return SmolVLASample(_observation(tensors), tensors["actions"], batch.num_known)

    def sample_batch(
        self, sample: SmolVLASample, rngs: Sequence[np.random.Generator]
    ) -> Float[Tensor, "batch horizon action"]:
        padded = F.pad(sample.actions, (0, self.config.max_action_dim - self.config.action_dim))
        return self.sample_actions(sample.observation, NUM_VALIDATION_STEPS, draw_noise(rngs, padded))

    def backbone_name(self, name: str) -> str | None:
        layer = re.match(r"model\.text_model\.layers\.(\d+)\.", name)
        if name.startswith("lm_head.") or (layer and int(layer[1]) >= self.config.num_vlm_layers):
            return None
        return f"vlm.{name.removeprefix('model.')}"

    def _embed_time(self, time: Float[Tensor, "batch draws"]) -> Float[Tensor, "batch draws width"]:
        """What a flow time adds to the first of the suffix's two layers, its bias included."""
        config, first = self.config, self.action_time_mlp_in
        embedded = embed_flow_time(time, config.expert_hidden_size, config.min_period, config.max_period)
        return F.linear(embedded.to(self.dtype), first.weight[:, config.expert_hidden_size :], first.bias)

    def _rotary(self, positions: Int64[Tensor, "batch rows"]) -> Rotary:
        head_dim = self.vlm.text_model.config.head_dim
        return make_rotary(positions[..., None].float() * inverse_frequencies(head_dim, THETA, positions.device))


def _observation(tensors: Mapping[str, Tensor]) -> SmolVLAObservation:
    names = ("pictures", "tokens", "token_mask", "state")
    return SmolVLAObservation(**{name: tensors[name] for name in names})


@constant
def _state_mask(num_tokens: int, device: torch.device) -> Bool[Tensor, "prefix prefix"]:
    """True where a row may see a column: the last, the state, is seen by itself alone."""
    mask = torch.ones(num_tokens, num_tokens, dtype=torch.bool)
    mask[:-1, -1] = False
    return mask.to(device)


@constant
def _causal_bias(horizon: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "horizon horizon"]:
    """0 where an action sees itself and those before it, else -inf."""
    return torch.full((horizon, horizon), -torch.inf).triu(1).to(dtype).to(device)


@constant
def _token_ids(ids: tuple[int, ...], device: torch.device) -> Int64[Tensor, "ids"]:
    return torch.tensor(ids, dtype=torch.int64).to(device)


@constant
def _number(value: float, device: torch.device) -> Float[Tensor, "1 1"]:
    return torch.full((1, 1), value).to(device)
