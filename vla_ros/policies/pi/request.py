"""The request of a Pi policy: the backbone's input, the state, and the noise that the actions are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.strict import parse_json, quoted
from vla_ros.transforms.sample import PolicyRequest, RequestView, check_tensor, read_guidance, read_stamp

_INPUT_TENSORS: dict[str, tuple[tuple[str, ...], int]] = {
    "pixel_values": (("uint8", "float32"), 2),
    "input_ids": (("int64",), 1),
    "attention_mask": (("bool",), 1),
    "prefix_mask": (("bool",), 2),
    "position_ids": (("int64",), 2),
}
_TENSORS = _INPUT_TENSORS | {"state": (("float32",), 2), "noise": (("float32",), 2)}


@dataclass(frozen=True)
class PiRequest(PolicyRequest):
    """``policy_input`` without a batch dimension, ``state`` float32 [state_history, state_dim] normalised, ``noise``
    float32 [horizon, action_dim]."""

    policy_input: PolicyInput
    state: np.ndarray
    noise: np.ndarray

    def view(self) -> RequestView:
        given = self.policy_input
        num_patches = [t * height * width for t, height, width in given.image_grid]
        return RequestView(
            images=tuple(np.split(given.pixel_values, np.cumsum(num_patches)[:-1])),
            image_grid=given.image_grid,
            state=self.state,
            noise=self.noise,
            tokens=given.input_ids[given.attention_mask],
            layout=(given.attention_mask, given.prefix_mask, given.position_ids),
        )

    def to_tensors(self) -> dict[str, np.ndarray]:
        inputs = {name: np.ascontiguousarray(getattr(self.policy_input, name)) for name in _INPUT_TENSORS}
        return inputs | {"state": self.state, "noise": self.noise} | super().to_tensors()

    def metadata(self) -> dict[str, str]:
        return {**super().metadata(), "image_grid": json.dumps(self.policy_input.image_grid)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> PiRequest:
        for name, (kinds, ndim) in _TENSORS.items():
            if name not in tensors:
                raise ValueError(f"request: tensor '{name}' is missing; expected {', '.join(_TENSORS)}")
            check_tensor(name, tensors[name], kinds, ndim)
        stamp_ns, guidance, grid = read_stamp(metadata), read_guidance(tensors), read_grid(metadata)
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
        arrays = {name: tensors[name] for name in _INPUT_TENSORS}
        policy_input = PolicyInput(**arrays, target_ids=None, image_grid=grid)
        return cls(stamp_ns, policy_input, tensors["state"], tensors["noise"], **guidance)


def read_grid(metadata: Mapping[str, str]) -> tuple[tuple[int, int, int], ...]:
    """(time, height, width) of each image in patches; raises ValueError where the text of a request lacks it."""
    try:
        return tuple((int(t), int(h), int(w)) for t, h, w in parse_json(metadata["image_grid"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"request: metadata {quoted(repr(dict(metadata)))} lacks a usable image_grid") from error
