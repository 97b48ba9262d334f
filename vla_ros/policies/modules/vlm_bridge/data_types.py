"""What goes into and out of a VLM bridge, batched, on the device.

Names of dimensions, the same in every annotation of the policies:

    batch     samples                          hidden    the VLM's hidden size
    seq       text and image tokens, padded    width     the action expert's hidden size
    registers learned register tokens          horizon   actions in a chunk
    prefix    seq + registers                  action    action dimensions
    axes      of position ids: 3 or 1
    slice     the part the expert reads        state     state dimensions
    images    images in the batch              history   state tokens
    patches   patches of a sample              draws     flow-matching draws for each sample
    heads, kv_heads, head_dim                  suffix    history + horizon
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from vla_ros.policies.base import LossTerm
from vla_ros.policies.modules.vlm_bridge.inputs import IGNORED, PolicyInput


@dataclass(frozen=True)
class VLMInputs:
    """``PolicyInput`` as tensors with a batch dimension; the fields mean the same. ``num_targets`` are all there are to
    be predicted."""

    pixel_values: Shaped[Tensor, "batch patches patch"]
    input_ids: Int64[Tensor, "batch seq"]
    attention_mask: Bool[Tensor, "batch seq"]
    prefix_mask: Bool[Tensor, "batch prefix prefix"]
    position_ids: Int64[Tensor, "batch axes prefix"]
    target_ids: Int64[Tensor, "batch seq"] | None
    image_grid: tuple[tuple[int, int, int], ...]
    num_target_tokens: int = 0
    num_targets: int = 0

    @classmethod
    def from_numpy(cls, batch: PolicyInput, device: torch.device | str = "cpu") -> VLMInputs:
        """A *batched* ``PolicyInput`` on ``device``; on CPU the memory is shared."""
        arrays = {name: value for name, value in vars(batch).items() if isinstance(value, np.ndarray)}
        tensors = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
        num_targets = 0 if batch.target_ids is None else int((batch.target_ids != IGNORED).sum())
        return cls(**vars(batch) | tensors, num_targets=num_targets)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], image_grid: tuple[tuple[int, int, int], ...]) -> VLMInputs:
        """From the batched tensors of a request, already on the device."""
        names = ("pixel_values", "input_ids", "attention_mask", "prefix_mask", "position_ids")
        return cls(**{name: tensors[name] for name in names}, target_ids=None, image_grid=image_grid)


@dataclass(frozen=True)
class PolicyObservation:
    """The backbone's input and the normalised state."""

    policy_input: VLMInputs
    state: Float[Tensor, "batch history state"]


@dataclass(frozen=True)
class PolicySample:
    """A training sample: an observation and the normalised actions that followed it, of which the first ``num_known``
    int64 [batch] are learned (None: all)."""

    observation: PolicyObservation
    actions: Float[Tensor, "batch horizon action"]
    num_known: np.ndarray | None = None


@dataclass(frozen=True)
class VLMOutputs:
    """What the action expert reads of the prefix, and what training adds.

    ``hidden_states`` holds the recorded layers (before the final norm), oldest first; ``pad_mask`` is True at valid
    positions of the slice, or None where all of them are (registers only). ``ce_loss`` is set where ``encode_prefix``
    was asked for it.
    """

    hidden_states: tuple[Float[Tensor, "batch slice hidden"], ...]
    pad_mask: Bool[Tensor, "batch slice"] | None
    ce_loss: LossTerm | None = None
