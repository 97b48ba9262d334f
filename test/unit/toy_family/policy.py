"""A toy policy: the mean colour, the letters and the state through one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from toy_family.config import ToyConfig
from toy_family.processor import NUM_LETTERS, ToyRequest
from vla_ros.policies.base import BasePolicy, LossTerm, OnStage, PolicyLoss, tell_nobody
from vla_ros.transforms.sample import TrainingBatch

Tensors = Mapping[str, Tensor]


class Toy(BasePolicy):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.letters = nn.Embedding(256, config.hidden_size)
        self.inner = nn.Linear(3 + config.state_dim, config.hidden_size)
        self.outer = nn.Linear(config.hidden_size, config.action_horizon * config.action_dim)

    def pack_weights(self) -> None:
        self.requires_grad_(False)

    def check_request(self, request: ToyRequest) -> None:
        super().check_request(request)
        if request.letters.shape != (NUM_LETTERS,) or request.state.shape[1] != self.config.state_dim:
            raise ValueError("request has another number of letters or joints: give both nodes the same policy")

    def unpack(self, tensors: Tensors, constants: Mapping[str, str]) -> Tensors:
        return tensors

    def prepare(self) -> None:
        return None

    def sample(self, inputs: Tensors, prepared: None, on_stage: OnStage = tell_nobody) -> Tensor:
        colors = inputs["images"].float().mean((1, 2, 3)) / 255
        seen = torch.cat((colors, inputs["state"].flatten(1)), dim=1).to(self.inner.weight.dtype)
        hidden = torch.tanh(self.inner(seen) + self.letters(inputs["letters"]).mean(1))
        actions = self.outer(hidden).unflatten(1, (self.config.action_horizon, self.config.action_dim))
        on_stage("sample")
        return actions

    def compute_loss(self, sample: Tensors, draws: None) -> PolicyLoss:
        num_known = sample["num_known"]
        rows = torch.arange(self.config.action_horizon)
        is_known = (rows < num_known[:, None]).to(sample["actions"].device)
        error = (self.sample(sample, None) - sample["actions"]).square() * is_known[..., None]
        return PolicyLoss({"mse": LossTerm(error.sum(), int(num_known.sum()) * self.config.action_dim)})

    def unpack_batch(self, batch: TrainingBatch, device: torch.device | str = "cpu") -> Tensors:
        arrays = {**batch.policy_input, "state": batch.state, "actions": batch.actions}
        horizon = np.full(len(batch.state), self.config.action_horizon)
        num_known = torch.from_numpy(horizon if batch.num_known is None else batch.num_known)  # for the host
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()} | {"num_known": num_known}

    def sample_batch(self, sample: Tensors, rngs: Sequence[np.random.Generator]) -> Tensor:
        return self.sample(sample, None)
