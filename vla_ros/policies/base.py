"""What every policy offers, and the batched values it takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla_ros.policies.guidance import Guidance, Velocity, check_product_sync, guided_velocity
from vla_ros.policies.modules.action_expert.dit import SuffixInput, TimeGrid
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs, VLMOutputs
from vla_ros.transforms.sample import PolicyRequest, TrainingBatch


@dataclass(frozen=True)
class PolicyObservation:
    """The backbone's input and the normalised state."""

    policy_input: VLMInputs
    state: Float[Tensor, "batch history state"]

    @classmethod
    def from_request(cls, request: PolicyRequest, device: torch.device | str = "cpu") -> PolicyObservation:
        """One request as a batch of one."""
        arrays = {name: torch.from_numpy(array)[None].to(device) for name, array in request.to_tensors().items()}
        return cls(VLMInputs.from_tensors(arrays, request.policy_input.image_grid), arrays["state"])


@dataclass(frozen=True)
class PolicySample:
    """A training sample: an observation and the normalised actions that followed it."""

    observation: PolicyObservation
    actions: Float[Tensor, "batch horizon action"]

    @classmethod
    def from_batch(cls, batch: TrainingBatch, device: torch.device | str = "cpu") -> PolicySample:
        """A numpy batch on ``device``."""
        inputs = VLMInputs.from_numpy(batch.policy_input, device)
        state, actions = (torch.from_numpy(array).to(device) for array in (batch.state, batch.actions))
        return cls(PolicyObservation(inputs, state), actions)


@dataclass(frozen=True)
class FlowDraws:
    """The random part of a flow-matching loss: noise and flow time of each draw.

    The first ``num_frozen`` actions of a draw are given clean and not learned; None where none are.
    """

    noise: Float[Tensor, "batch draws horizon action"]
    time: Float[Tensor, "batch draws"]
    num_frozen: Int64[Tensor, "batch draws"] | None = None


@dataclass(frozen=True)
class PolicyLoss:
    """``total`` is what to minimise; the parts are detached."""

    total: Float[Tensor, ""]
    flow_mse: Float[Tensor, ""]
    ce_loss: Float[Tensor, ""]


class BasePolicy(nn.Module, ABC):
    """A policy with flow matching over a prefix. Values in and out are normalised."""

    @property
    @abstractmethod
    def knows_frozen_actions(self) -> bool:
        """Whether it was trained with the first actions given: then guidance holds those and takes no gradient."""

    @abstractmethod
    def pack_weights(self) -> None:
        """Lay the weights out for inference, where they are: same names, values and memory, fewer operators.

        Not for training; moving the policy to another device afterwards undoes it wrongly.
        """

    @abstractmethod
    def check_request(self, request: PolicyRequest) -> None:
        """Look at a request on the host; raises ValueError for one that another policy's processor made."""

    @abstractmethod
    def encode_prefix(self, observation: PolicyObservation, with_ce_loss: bool = False) -> VLMOutputs:
        """Once for each observation; the cross-entropy of the targets only where a loss is computed."""

    @abstractmethod
    def make_time_grid(self, num_steps: int) -> TimeGrid:
        """What depends on the flow times of ``num_steps`` Euler steps and on the weights alone."""

    @abstractmethod
    def prepare_suffix(self, vlm_outputs: VLMOutputs, time_grid: TimeGrid | None) -> SuffixInput:
        """What stays the same from step to step; without a ``time_grid`` times are given to ``predict_suffix``."""

    @abstractmethod
    def predict_suffix(
        self,
        state: Float[Tensor, "batch history state"],
        suffix_input: SuffixInput,
        noisy_actions: Float[Tensor, "batch draws horizon action"],
        time: Float[Tensor, "batch draws"] | int,
        is_frozen: Bool[Tensor, "batch #draws horizon"] | None = None,
    ) -> Float[Tensor, "batch draws horizon action"]:
        """The velocity; ``time`` is a flow time for each draw, or the index of a step of the prepared grid.

        Actions that are ``is_frozen`` are clean: flow time 0. What is returned for them means nothing.
        """

    @abstractmethod
    def compute_loss(self, sample: PolicySample, draws: FlowDraws | None = None) -> PolicyLoss:
        """Flow-matching loss plus weighted cross-entropy; ``draws`` are sampled unless given."""

    @abstractmethod
    def sample_actions(
        self,
        observation: PolicyObservation,
        num_steps: int,
        noise: Float[Tensor, "batch horizon action"],
        time_grid: TimeGrid | None = None,
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """Actions from noise in ``num_steps`` Euler steps; ``time_grid`` spares making it again.

        ``guidance`` draws them towards an older chunk; without it they depend on nothing but observation and noise.
        """

    def denoise(
        self,
        state: Float[Tensor, "batch history state"],
        suffix_input: SuffixInput,
        noise: Float[Tensor, "batch horizon action"],
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """All Euler steps of the prepared time grid."""
        assert suffix_input.time_grid is not None, "steps need a prepared time grid"
        num_steps, actions = suffix_input.time_grid.num_steps, noise[:, None]
        if guidance is not None and self.knows_frozen_actions:
            return self._denoise_rest(state, suffix_input, actions, guidance)
        for step in range(num_steps):
            if guidance is None:
                velocity = self.predict_suffix(state, suffix_input, actions, step)
            else:
                predict = self._velocity_of_step(state, suffix_input, step)
                velocity = guided_velocity(predict, actions, 1.0 - step / num_steps, guidance)
            actions = actions - velocity / num_steps
        return actions[:, 0]

    def check_guidance_sync(
        self, observation: PolicyObservation, noise: Float[Tensor, "batch horizon action"], time_grid: TimeGrid
    ) -> None:
        """Look whether guidance works with this torch; raises ValueError where it doesn't. Waits for the device."""
        if self.knows_frozen_actions:
            return
        suffix_input = self.prepare_suffix(self.encode_prefix(observation), time_grid)
        check_product_sync(self._velocity_of_step(observation.state, suffix_input, 0), noise[:, None])

    def _velocity_of_step(self, state: Tensor, suffix_input: SuffixInput, step: int) -> Velocity:
        return lambda actions: self.predict_suffix(state, suffix_input, actions, step)

    def _denoise_rest(
        self, state: Tensor, suffix_input: SuffixInput, actions: Tensor, guidance: Guidance
    ) -> Float[Tensor, "batch horizon action"]:
        """The frozen actions are given, the others follow from them as in training."""
        assert suffix_input.time_grid is not None
        num_steps, is_frozen = suffix_input.time_grid.num_steps, guidance.is_frozen[:, None]
        given, is_given = guidance.previous_actions[:, None].to(actions.dtype), is_frozen[..., None]
        actions = torch.where(is_given, given, actions)
        for step in range(num_steps):
            velocity = self.predict_suffix(state, suffix_input, actions, step, is_frozen)
            actions = torch.where(is_given, given, actions - velocity / num_steps)
        return actions[:, 0]
