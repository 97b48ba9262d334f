"""The request of a SmolVLA policy: pictures as the vision tower sees them, tokens, state and noise. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.transforms.sample import PolicyRequest, RequestView, check_tensor

_TENSORS = {"pictures": ("float32", 4), "tokens": ("int64", 1), "token_mask": ("bool", 1)}
_TENSORS |= {"state": ("float32", 2), "noise": ("float32", 2)}


@dataclass(frozen=True)
class SmolVLARequest(PolicyRequest):
    """``pictures`` float32 [cameras, side, side, 3] in -1..1; ``tokens`` int64 [bucket] and ``token_mask`` bool
    [bucket], False at padding; ``state`` float32 [1, state_dim] normalised; ``noise`` float32 [horizon,
    max_action_dim]."""

    pictures: np.ndarray
    tokens: np.ndarray
    token_mask: np.ndarray
    state: np.ndarray
    noise: np.ndarray

    def view(self) -> RequestView:
        images = tuple(picture.reshape(-1, 3) for picture in self.pictures)
        grid = ((1, *self.pictures.shape[1:3]),) * len(images)
        tokens = self.tokens[self.token_mask]
        return RequestView(images, grid, self.state, self.noise, tokens, layout=(self.token_mask,))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> SmolVLARequest:
        for name, (kind, ndim) in _TENSORS.items():
            check_tensor(name, tensors.get(name), (kind,), ndim)
        request = super().from_tensors(tensors, metadata)
        if request.tokens.shape != request.token_mask.shape:
            got = f"{request.tokens.shape} and {request.token_mask.shape}"
            raise ValueError(f"request: tokens and token_mask have shapes {got}; expected the same")
        return request
