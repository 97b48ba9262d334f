"""The average of the weights over the steps, which is what a run exports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


class AveragedWeights:
    """Beside each parameter that is trained its exponential moving average, spread over processes as the parameter is:
    ``values``, by name; one that is not trained has none."""

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy
        self._trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        self.values = {name: value.detach().clone() for name, value in self._trained.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move a share of ``1 - decay`` towards the weights as they are now."""
        for name, average in self.values.items():
            average.lerp_(self._trained[name], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the policy has the averages for weights and judges by them."""
        was_training = self._policy.training
        self._policy.eval()
        self._swap()
        try:
            yield
        finally:
            self._swap()
            self._policy.train(was_training)

    @torch.no_grad()
    def install(self) -> None:
        """Make the averages the policy's weights for good."""
        self._gathered_no_more()
        for name, average in self.values.items():
            self._trained[name].copy_(average)

    @torch.no_grad()
    def _swap(self) -> None:
        self._gathered_no_more()
        for name, average in self.values.items():
            weight = self._trained[name]
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _gathered_no_more(self) -> None:
        """What a sharded policy gathered for its last pass is as the weights were then."""
        if isinstance(self._policy, FSDPModule):
            self._policy.reshard()
