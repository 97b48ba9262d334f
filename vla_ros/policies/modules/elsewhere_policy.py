"""A policy that another program or library computes, as the model node runs one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from vla_ros.policies.base import BasePolicy, PolicyUnavailable
from vla_ros.policies.modules.elsewhere import ElsewhereConfig
from vla_ros.transforms.prompted import PromptedRequest
from vla_ros.transforms.sample import PolicyRequest

Inputs = Mapping[str, np.ndarray]


class ElsewherePolicy(BasePolicy):
    """Has no weights of its own; its tensors stay on the host. A family gives ``sample`` and ``drift_sync``."""

    config: ElsewhereConfig

    def pack_weights(self) -> None:
        """There are none."""

    def check_request(self, request: PolicyRequest) -> None:
        super().check_request(request)
        assert isinstance(request, PromptedRequest)
        config, got = self.config, [image.shape for image in request.images]
        sizes, state = list(config.picture_sizes.values()), (config.state_history, config.state_dim)
        fits = len(got) == len(sizes) and all(size in ((0, 0), each[:2]) for size, each in zip(sizes, got, strict=True))
        if not fits or request.state.shape != state:
            found = f"request has images of {got} and a state of {request.state.shape}"
            fix = f"expects {sizes} and {state}: give both nodes the same policy directory"
            raise ValueError(f"{found}; the policy {fix}")

    def unpack(self, tensors: Mapping[str, Tensor], constants: Mapping[str, str]) -> Inputs:
        return {name: tensor[0].numpy() for name, tensor in tensors.items()}

    def prepare(self) -> None:
        return None

    def check_chunk(self, actions: np.ndarray, says: str) -> np.ndarray:
        """Raises PolicyUnavailable for actions of another shape than at import, which somebody ``says``."""
        expected = [self.config.action_horizon, self.config.action_dim]
        if list(actions.shape) != expected:
            raise PolicyUnavailable(f"{says} actions {list(actions.shape)}; expected {expected}, as at import")
        return actions

    def compute_loss(self, sample: Any, draws: Any) -> NoReturn:
        self.config.refuse_training()

    def unpack_batch(self, batch: Any, device: Any = "cpu") -> NoReturn:
        self.config.refuse_training()

    def sample_batch(self, sample: Any, rngs: Any) -> NoReturn:
        self.config.refuse_training()
