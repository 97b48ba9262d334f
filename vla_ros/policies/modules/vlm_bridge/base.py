"""The interface between a policy and its VLM backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs, VLMOutputs


class VLMBridge(nn.Module, ABC):
    """Runs one kind of VLM over tokens and registers; the transformers model is ``causal_model``."""

    hidden_size: int

    @abstractmethod
    def encode(
        self,
        inputs: VLMInputs,
        registers: Float[Tensor, "registers hidden"],
        num_recorded_layers: int,
        with_ce_loss: bool,
    ) -> VLMOutputs:
        """Encode the prefix and record the last ``num_recorded_layers`` text layers; cross-entropy only on demand."""
