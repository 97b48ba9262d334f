"""What travels from a processor to a policy, as plain numpy: policy inputs, requests and training batches.

Arrays of a request have no batch dimension; those of a batch have it first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PolicyInput:
    """What a backbone needs of one observation (or a batch of them), made entirely on the host.

    pixel_values           uint8 [num_patches, channels * patch * patch] (still to be normalised) or float32
                           [num_patches, channels * temporal_patch * patch * patch] (ready); images one after another
    input_ids              int64 [seq], left- or right-padded to a bucket, as the backbone has it
    attention_mask         bool [seq], False at padding
    prefix_mask            bool [prefix, prefix], True where a query (row) may read a key; prefix is seq and registers
    position_ids           int64 [axes, prefix]: 3 axes where the backbone turns by time, height and width, else 1
    target_ids             int64 [seq], -100 where nothing is to be predicted; None outside training
    image_grid             (time, height, width) in patches, one for each image; a batch shares it
    num_target_tokens      every target lies among the last this many tokens; 0 outside training
    """

    pixel_values: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    prefix_mask: np.ndarray
    position_ids: np.ndarray
    target_ids: np.ndarray | None
    image_grid: tuple[tuple[int, int, int], ...]
    num_target_tokens: int = 0

    def sample(self, index: int) -> PolicyInput:
        """One sample of a batch, without the batch dimension."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return PolicyInput(**{k: v[index] if isinstance(v, np.ndarray) else v for k, v in values.items()})


@dataclass(frozen=True)
class PolicyRequest:
    """One inference: ``state`` float32 [state_history, state_dim] normalised, ``noise`` float32 [horizon, action_dim].

    ``stamp_ns`` is the observation's ``t_obs``; ``policy_input`` has no batch dimension. Real-time chunking adds
    ``previous_actions`` float32 [horizon, action_dim], the old chunk at the new one's due times, normalised for the
    new state, and ``guidance_weights`` float32 [horizon], how much to hold to it, 0 where it has no value; else both
    are None.
    """

    stamp_ns: int
    policy_input: PolicyInput
    state: np.ndarray
    noise: np.ndarray
    previous_actions: np.ndarray | None = None
    guidance_weights: np.ndarray | None = None

    def to_tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name, for a safetensors message."""
        tensors = {name: np.ascontiguousarray(getattr(self.policy_input, name)) for name in _REQUEST_ARRAYS}
        guidance = {name: getattr(self, name) for name in _GUIDANCE_TENSORS}
        given = {name: array for name, array in guidance.items() if array is not None}
        return {**tensors, "state": self.state, "noise": self.noise, **given}

    def metadata(self) -> dict[str, str]:
        """What is no array, as strings, for the header of a safetensors message."""
        return {"stamp_ns": str(self.stamp_ns), "image_grid": json.dumps(self.policy_input.image_grid)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> PolicyRequest:
        """The inverse of ``to_tensors`` and ``metadata``; raises ValueError where they don't describe a request."""
        for name, (kinds, ndim) in (_REQUEST_TENSORS | _GUIDANCE_TENSORS).items():
            if name not in tensors and name in _GUIDANCE_TENSORS:
                continue
            if name not in tensors:
                raise ValueError(f"request: tensor '{name}' is missing; expected {', '.join(_REQUEST_TENSORS)}")
            if tensors[name].dtype.name not in kinds or tensors[name].ndim != ndim:
                got = f"{tensors[name].dtype.name} with {tensors[name].ndim} dimensions"
                raise ValueError(f"request: tensor '{name}' is {got}; expected {' or '.join(kinds)} with {ndim}")
        try:
            stamp_ns = int(metadata["stamp_ns"])
            grid = tuple((int(t), int(h), int(w)) for t, h, w in json.loads(metadata["image_grid"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"request: metadata {dict(metadata)!r} lacks a usable stamp_ns or image_grid") from error
        seq, prefix = tensors["input_ids"].shape[0], tensors["prefix_mask"].shape[0]
        axes = tensors["position_ids"].shape[0]
        shapes = {"attention_mask": (seq,), "prefix_mask": (max(prefix, seq),) * 2, "position_ids": (axes, prefix)}
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(f"request: tensor '{name}' has shape {tensors[name].shape}; expected {shape}")
        num_patches = sum(t * h * w for t, h, w in grid)
        if tensors["pixel_values"].shape[0] != num_patches:
            got = tensors["pixel_values"].shape[0]
            raise ValueError(f"request: {got} patches; expected {num_patches} for the image_grid {grid}")
        arrays: dict[str, Any] = {name: tensors[name] for name in _REQUEST_ARRAYS}
        return cls(
            stamp_ns=stamp_ns,
            policy_input=PolicyInput(**arrays, target_ids=None, image_grid=grid),
            state=tensors["state"],
            noise=tensors["noise"],
            **{name: tensors.get(name) for name in _GUIDANCE_TENSORS},
        )


@dataclass(frozen=True)
class TrainingBatch:
    """``policy_input`` batched; ``state`` float32 [batch, state_history, state_dim] and ``actions`` float32
    [batch, horizon, action_dim], both normalised."""

    policy_input: PolicyInput
    state: np.ndarray
    actions: np.ndarray


_REQUEST_ARRAYS = ("pixel_values", "input_ids", "attention_mask", "prefix_mask", "position_ids")
_REQUEST_TENSORS: dict[str, tuple[tuple[str, ...], int]] = {
    "pixel_values": (("uint8", "float32"), 2),
    "input_ids": (("int64",), 1),
    "attention_mask": (("bool",), 1),
    "prefix_mask": (("bool",), 2),
    "position_ids": (("int64",), 2),
    "state": (("float32",), 2),
    "noise": (("float32",), 2),
}
_GUIDANCE_TENSORS: dict[str, tuple[tuple[str, ...], int]] = {
    "previous_actions": (("float32",), 2),
    "guidance_weights": (("float32",), 1),
}
