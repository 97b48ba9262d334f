"""pi0 and pi0.5: a PaliGemma reads pictures and instruction once, a smaller Gemma turns noise into actions.

Black et al., "pi0" (arXiv 2410.24164) and "pi0.5" (arXiv 2504.16054); the arithmetic is that of LeRobot and openpi.
Pictures that aren't there are left out, which a mask would hide: positions count valid tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from vla_ros.policies.base import Layer, PolicyLoss
from vla_ros.policies.modules.flow_loss import FlowDraws, FlowSettings, draw_noise, flow_error, flow_target
from vla_ros.policies.modules.flow_matching import FlowInputs, FlowMatchingPolicy
from vla_ros.policies.modules.guidance import Guidance
from vla_ros.policies.modules.layers.flow_time import embed_flow_time
from vla_ros.policies.modules.layers.gemma import AdaptiveNorm, GemmaLayer
from vla_ros.policies.modules.layers.siglip import Siglip, SiglipTower
from vla_ros.policies.modules.vlm_bridge.base import SAME_POLICY
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.expert import Expert, FlowTimes, Norms, Prefix, freeze_rows, read_prefix
from vla_ros.policies.pi0.request import Pi0Request
from vla_ros.policies.utils.transformers import Rotary
from vla_ros.transforms.sample import TrainingBatch

NUM_VALIDATION_STEPS = 5
PALIGEMMA = (  # transformers' names and ours
    ("model.vision_tower.", "vision."),
    ("model.multi_modal_projector.linear.", "projector."),
    ("model.language_model.embed_tokens.", "embed_tokens."),
    ("model.language_model.layers.", "text_layers."),
)
HALF = (0.5, 0.5, 0.5)  # mean and std of pixels: 0..1 becomes -1..1


class Pi0Observation(NamedTuple):
    """A request's inputs on the device."""

    pixel_values: Shaped[Tensor, "batch cameras patches patch"]
    tokens: Int64[Tensor, "batch seq"]
    token_mask: Bool[Tensor, "batch seq"]
    state: Float[Tensor, "batch 1 state"]


class Condition(NamedTuple):
    """What the flow time does to the suffix: what pi0 adds to each action's token, and the norms, which in pi0 don't
    depend on it."""

    added: Float[Tensor, "#batch #draws #suffix width"] | None
    norms: Norms


@dataclass(frozen=True)
class TimeGrid:
    """The condition of each Euler step, and that of flow time 0, for frozen actions, where the policy knows such."""

    steps: tuple[Condition, ...]
    clean: Condition | None

    @property
    def num_steps(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Suffix:
    """What the steps read, and how their rows are turned; ``time_grid`` is None where flow times vary (training), and
    the ``rotary`` angles then too: each layer's rows are turned by themselves."""

    prefix: Prefix
    time_grid: TimeGrid | None
    rotary: Rotary | None


class Sample(NamedTuple):
    """A training batch; actions are padded, and the first ``num_known`` int64 [batch] learned (None: all)."""

    observation: Pi0Observation
    actions: Float[Tensor, "batch horizon action"]
    num_known: np.ndarray | None = None


class Pi0Policy(FlowMatchingPolicy):
    """Built from its configuration alone, with random weights."""

    parts = {"backbone": ("vision.", "projector.", "embed_tokens.", "text_layers."), "expert": ("expert.",)}

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        width, last = config.expert.width, config.text.num_layers - 1
        self.vision = Siglip(config.vision)
        self.projector = nn.Linear(config.vision.width, config.text.width)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.text.width)
        self.text_layers = nn.ModuleList(GemmaLayer(config.text, only_reads=i == last) for i in range(last + 1))
        self.expert = Expert(config.expert, adaptive=config.variant == "pi05")
        self.action_in_proj = nn.Linear(config.padded_action_dim, width)
        self.action_out_proj = nn.Linear(width, config.padded_action_dim)
        if config.variant == "pi0":
            self.state_proj = nn.Linear(config.padded_state_dim, width)
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)
        else:
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)
        self._tower = SiglipTower(self.vision, HALF, HALF)

    @property
    def num_steps(self) -> int:
        return self.config.num_steps

    @property
    def knows_frozen_actions(self) -> bool:
        return self.config.max_frozen_actions > 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.action_in_proj.weight.dtype

    @property
    def prepares(self) -> tuple[nn.Module, ...]:
        return tuple(part for part in self.expert.modules() if isinstance(part, AdaptiveNorm))

    @property
    def repeated(self) -> tuple[nn.Module, ...]:
        return (self.expert,)

    def pack_weights(self) -> None:
        self.requires_grad_(False)
        self._tower.pack_weights()
        for layer in self.text_layers:
            layer.pack_weights()
        self.expert.pack_weights()

    def check_request(self, request: Pi0Request) -> None:
        super().check_request(request)
        config, vision = self.config, self.config.vision
        num_cameras, num_tokens = len(request.pixel_values), len(request.tokens)
        for name, dtypes, shape in (
            ("pixel_values", ("uint8", "float32"), (num_cameras, vision.num_patches, 3 * vision.patch_size**2)),
            ("tokens", ("int64",), (num_tokens,)),
            ("token_mask", ("bool",), (num_tokens,)),
            ("state", ("float32",), (1, config.padded_state_dim)),
            ("noise", ("float32",), (config.action_horizon, config.padded_action_dim)),
        ):
            array = getattr(request, name)
            if array.shape != shape or array.dtype.name not in dtypes or not array.size:
                got = f"request has {name} {array.dtype} of shape {array.shape}"
                raise ValueError(f"{got}; the policy expects {' or '.join(dtypes)} of {shape}: {SAME_POLICY}")
        if not (0 <= request.tokens.min() and request.tokens.max() < config.vocab_size):
            raise ValueError(f"request has a token outside 0..{config.vocab_size - 1}: {SAME_POLICY}")
        if not request.token_mask.any() or (~request.token_mask[:-1] & request.token_mask[1:]).any():
            raise ValueError(f"request has padding before its tokens, or nothing else: {SAME_POLICY}")

    def unpack(self, tensors: Mapping[str, Tensor], constants: Mapping[str, str]) -> FlowInputs:
        guidance = Guidance.from_tensors(tensors)
        if guidance is not None and self.knows_frozen_actions:  # given whole; what is only drawn to it needn't be
            guidance = replace(guidance, previous_actions=self._pad_actions(guidance.previous_actions))
        observation = Pi0Observation(**{name: tensors[name] for name in Pi0Observation._fields})
        return FlowInputs(observation, tensors["noise"], guidance)

    def encode_prefix(self, observation: Pi0Observation) -> Prefix:
        x, is_valid = self.embed_prefix(observation)
        prefix = read_prefix(self.text_layers, x, is_valid)
        if self.config.variant == "pi0":
            prefix = replace(prefix, states=self.state_proj(observation.state.to(self.dtype)))
        return prefix

    def embed_prefix(
        self, observation: Pi0Observation
    ) -> tuple[Float[Tensor, "batch prefix width"], Bool[Tensor, "batch prefix"]]:
        """What enters the first text layer, pictures before text, and which of it is no padding. Image features enter
        as they are, token embeddings times ``sqrt(width)``."""
        positions = self.vision.embeddings.position_embedding.weight
        pixels = observation.pixel_values.flatten(1, 2)
        seen = self.projector(self._tower(pixels, positions)).unflatten(0, (len(pixels), -1)).flatten(1, 2)
        embedded = F.embedding(observation.tokens, self.embed_tokens.weight)
        scale = torch.full((), embedded.shape[-1] ** 0.5, dtype=embedded.dtype, device=embedded.device)
        is_valid = F.pad(observation.token_mask, (seen.shape[1], 0), value=True)
        return torch.cat((seen.to(embedded.dtype), embedded * scale), dim=1), is_valid

    def make_time_grid(self, num_steps: int) -> TimeGrid:
        device = self.action_in_proj.weight.device
        steps = tuple(self.condition(time[None, None]) for time in self._times(num_steps, device))
        clean = self.condition(torch.zeros(1, 1, device=device)) if self.knows_frozen_actions else None
        return TimeGrid(steps, clean)

    def prepare_suffix(self, prefix: Prefix, time_grid: TimeGrid | None) -> Suffix:
        if time_grid is None:
            return Suffix(prefix, None, None)
        prefix = self.expert.extend(prefix)
        rotary = self.expert.rotary(prefix.length, self.config.action_horizon)
        return Suffix(prefix, time_grid, rotary.like(prefix.bias))

    def predict_suffix(
        self,
        state: Float[Tensor, "batch 1 state"],
        suffix_input: Suffix,
        noisy_actions: Float[Tensor, "batch draws horizon action"],
        time: Float[Tensor, "batch draws"] | int,
        is_frozen: Bool[Tensor, "batch #draws horizon"] | None = None,
    ) -> Float[Tensor, "batch draws horizon action"]:
        """The state is in the prefix already."""
        if isinstance(time, int):
            assert suffix_input.time_grid is not None, "a step index needs a prepared time grid"
            condition, clean = suffix_input.time_grid.steps[time], suffix_input.time_grid.clean
            if is_frozen is not None:
                assert clean is not None, "frozen actions need a policy that was trained with them"
                condition = self._freeze(condition, clean, is_frozen[..., None])
            x = self.embed_suffix(noisy_actions, condition.added)
            return self.action_out_proj(self.expert(x, suffix_input.prefix, condition.norms, suffix_input.rotary))
        noisy, rows = self._condition(time), None if is_frozen is None else is_frozen[..., None]
        clean = None if rows is None else self._condition(torch.zeros_like(time))
        if self.config.variant == "pi05":
            times, added = FlowTimes(noisy, clean, rows), None
        else:
            times, added = FlowTimes(), noisy if rows is None else torch.where(rows, clean, noisy)
        x = self.embed_suffix(noisy_actions, added)
        return self.action_out_proj(self.expert.run(x, suffix_input.prefix, times))

    def embed_suffix(
        self,
        noisy_actions: Float[Tensor, "batch draws horizon action"],
        added: Float[Tensor, "#batch #draws #horizon width"] | None,
    ) -> Float[Tensor, "batch draws horizon width"]:
        """The actions' tokens; ``added`` is what pi0 makes of the flow time."""
        x = self.action_in_proj(noisy_actions.to(self.dtype))
        if added is None:
            return x
        of_actions = self.action_time_mlp_in.weight[:, : x.shape[-1]]
        return self.action_time_mlp_out(F.silu(F.linear(x, of_actions) + added))

    def embed_time(self, time: Float[Tensor, "*times"]) -> Float[Tensor, "*times width"]:
        """Flow times as the expert's condition takes them, float32."""
        config = self.config
        return embed_flow_time(time, config.expert.width, config.min_period, config.max_period)

    def condition(self, time: Float[Tensor, "batch draws"]) -> Condition:
        """That of a flow time for each draw."""
        made = self._condition(time)
        if self.config.variant == "pi0":
            return Condition(made, self.expert.norms(None))
        return Condition(None, self.expert.norms(made))

    def _condition(self, time: Float[Tensor, "batch draws"]) -> Tensor:
        """Of pi0 what is added to the actions' tokens, of pi0.5 what the norms are made of."""
        embedded = self.embed_time(time).to(self.dtype)
        if self.config.variant == "pi0":
            layer = self.action_time_mlp_in
            return F.linear(embedded, layer.weight[:, embedded.shape[-1] :], layer.bias).unsqueeze(-2)
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedded))))

    def draw(self, rngs: Sequence[np.random.Generator]) -> FlowDraws:
        config = self.config
        shape = config.action_horizon, config.padded_action_dim
        alpha, beta, num_draws = config.time_dist_alpha, config.time_dist_beta, config.num_noise_per_sample
        return FlowSettings(num_draws, shape, beta, alpha, config.max_frozen_actions).draw(rngs)

    def compute_loss(self, sample: Sample, draws: FlowDraws) -> PolicyLoss:
        """The flow-matching loss of the robot's own actions."""
        target = flow_target(sample.actions, draws, sample.num_known)
        suffix = self.prepare_suffix(self.encode_prefix(sample.observation), None)
        velocity = self.predict_suffix(sample.observation.state, suffix, target.noisy, target.time, target.is_frozen)
        return PolicyLoss({"flow_mse": flow_error(velocity, target, self.config.action_dim)})

    def layers(self) -> tuple[Layer, ...]:
        text = (Layer(layer, "encode") for layer in self.text_layers)
        return (*self._tower.layers(), *text, *(Layer(layer, "run_layer", self.expert) for layer in self.expert.layers))

    def unpack_batch(self, batch: TrainingBatch, device: torch.device | str = "cpu") -> Sample:
        tensors = {name: torch.from_numpy(array).to(device) for name, array in batch.policy_input.items()}
        observation = Pi0Observation(**{name: tensors[name] for name in Pi0Observation._fields})
        return Sample(observation, self._pad_actions(torch.from_numpy(batch.actions).to(device)), batch.num_known)

    def sample_batch(
        self, sample: Sample, rngs: Sequence[np.random.Generator]
    ) -> Float[Tensor, "batch horizon action"]:
        return self.sample_actions(sample.observation, NUM_VALIDATION_STEPS, draw_noise(rngs, sample.actions))

    def init_vision(self, pos_emb_std: float) -> None:
        nn.init.normal_(self.vision.embeddings.position_embedding.weight, std=pos_emb_std)

    def backbone_name(self, name: str) -> str | None:
        """The last text layer gives keys and values only, and no words are predicted."""
        if name.startswith(("lm_head.", "model.language_model.norm.")):
            return None
        own = next((ours + name.removeprefix(theirs) for theirs, ours in PALIGEMMA if name.startswith(theirs)), name)
        is_last = own.startswith(f"text_layers.{len(self.text_layers) - 1}.")
        return None if is_last and own not in dict(self.named_parameters()) else own

    def _pad_actions(self, actions: Float[Tensor, "batch horizon action"]) -> Float[Tensor, "batch horizon padded"]:
        return F.pad(actions, (0, self.config.padded_action_dim - actions.shape[-1]))

    def _times(self, num_steps: int, device: torch.device) -> Float[Tensor, "steps"]:
        if self.config.time_rule == "product":
            steps = torch.arange(num_steps, dtype=torch.float64, device=device)
            return (1.0 + steps * (-1.0 / num_steps)).float()
        times = [torch.ones((), device=device)]
        for _ in range(num_steps - 1):
            times.append(times[-1] - 1.0 / num_steps)
        return torch.stack(times)

    def _freeze(self, condition: Condition, clean: Condition, is_frozen: Tensor) -> Condition:
        """``clean`` in the frozen rows, ``condition`` in the others."""
        if condition.added is not None and clean.added is not None:
            return Condition(torch.where(is_frozen, clean.added, condition.added), condition.norms)
        return Condition(None, freeze_rows(condition.norms, clean.norms, is_frozen))
