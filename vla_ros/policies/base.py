"""What every policy offers, and the batched values it takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    """The random part of a flow-matching loss: noise and flow time of each draw."""

    noise: Float[Tensor, "batch draws horizon action"]
    time: Float[Tensor, "batch draws"]


@dataclass(frozen=True)
class PolicyLoss:
    """``total`` is what to minimise; the parts are detached."""

    total: Float[Tensor, ""]
    flow_mse: Float[Tensor, ""]
    ce_loss: Float[Tensor, ""]


class BasePolicy(nn.Module, ABC):
    """A policy with flow matching over a prefix. Values in and out are normalised."""

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
    ) -> Float[Tensor, "batch draws horizon action"]:
        """The velocity; ``time`` is a flow time for each draw, or the index of a step of the prepared grid."""

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
    ) -> Float[Tensor, "batch horizon action"]:
        """Actions from noise in ``num_steps`` Euler steps; ``time_grid`` spares making it again."""
