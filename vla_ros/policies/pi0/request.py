"""The request of a pi0 policy: pictures in patches, the instruction's tokens, the state, noise. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla_ros.transforms.sample import PolicyRequest, RequestView


@dataclass(frozen=True)
class Pi0Request(PolicyRequest):
    """``pixel_values`` [cameras, patches, 3 * patch * patch], uint8 or float32 in about -1..1, of the cameras there
    are; ``tokens`` int64 [bucket] and ``token_mask`` bool [bucket], padded on the right; ``state`` float32 [1,
    padded_state_dim] normalised; ``noise`` float32 [horizon, padded_action_dim]."""

    pixel_values: np.ndarray
    tokens: np.ndarray
    token_mask: np.ndarray
    state: np.ndarray
    noise: np.ndarray

    def view(self) -> RequestView:
        side = math.isqrt(self.pixel_values.shape[1])
        return RequestView(
            images=tuple(self.pixel_values),
            image_grid=((1, side, side),) * len(self.pixel_values),
            state=self.state,
            noise=self.noise,
            tokens=self.tokens[self.token_mask],
            layout=(self.token_mask,),
        )
