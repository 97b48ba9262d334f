"""What training draws and measures for a policy with flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla_ros.policies.base import LossTerm


@dataclass(frozen=True)
class FlowDraws:
    """The random part of a flow-matching loss, on the host: noise and flow time of each draw.

    The first ``num_frozen`` actions of a draw are given clean and not learned; None where none are.
    """

    noise: Float[Tensor, "batch draws horizon action"]
    time: Float[Tensor, "batch draws"]
    num_frozen: Int64[Tensor, "batch draws"] | None = None

    @property
    def num_learned(self) -> int:
        """How many actions of the batch are learned, over all draws."""
        batch, draws, horizon, _ = self.noise.shape
        return batch * draws * horizon - (0 if self.num_frozen is None else int(self.num_frozen.sum()))


@dataclass(frozen=True)
class FlowTarget:
    """What the draws make of clean actions: ``noisy`` ones, and the ``velocity`` to be said of them, but where
    ``is_frozen``; ``num_learned`` actions are left."""

    noisy: Float[Tensor, "batch draws horizon action"]
    velocity: Float[Tensor, "batch draws horizon action"]
    time: Float[Tensor, "batch draws"]
    is_frozen: Bool[Tensor, "batch draws horizon"] | None
    num_learned: int


@dataclass(frozen=True)
class FlowSettings:
    """What is drawn for each sample: ``num_draws`` times noise of ``shape`` (horizon, action) and a time ``0.999 b +
    0.001`` with ``b ~ Beta(beta, alpha)``, and 0 up to ``max_frozen`` frozen actions, each number as often."""

    num_draws: int
    shape: tuple[int, int]
    beta: float
    alpha: float
    max_frozen: int = 0

    def draw(self, rngs: Sequence[np.random.Generator]) -> FlowDraws:
        """One generator for each sample: what it gets depends on no other sample of the batch."""
        drawn = [self._draw(rng) for rng in rngs]
        noise, time, num_frozen = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
        return FlowDraws(noise, time, num_frozen if self.max_frozen else None)

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        noise = rng.standard_normal((self.num_draws, *self.shape), np.float32)
        time = 0.999 * rng.beta(self.beta, self.alpha, self.num_draws) + 0.001
        return noise, time.astype(np.float32), rng.integers(self.max_frozen + 1, size=self.num_draws)


def draw_noise(
    rngs: Sequence[np.random.Generator], like: Float[Tensor, "batch horizon action"]
) -> Float[Tensor, "batch horizon action"]:
    """Noise to begin from, drawn on the host with one generator for each sample, where and as large as ``like``."""
    noise = np.stack([rng.standard_normal(like.shape[1:], np.float32) for rng in rngs])
    return torch.from_numpy(noise).to(like.device)


def flow_target(actions: Float[Tensor, "batch horizon action"], draws: FlowDraws) -> FlowTarget:
    """Straight lines from the actions at flow time 0 to the noise at 1, on the actions' device."""
    noise, flow_time = draws.noise.to(actions.device), draws.time.to(actions.device)
    clean, time, is_frozen = actions[:, None], flow_time[..., None, None], None
    if draws.num_frozen is not None:
        num_frozen = draws.num_frozen.to(actions.device)
        is_frozen = torch.arange(actions.shape[1], device=actions.device) < num_frozen[..., None]
        time = torch.where(is_frozen[..., None], 0.0, time)
    return FlowTarget(clean + time * (noise - clean), noise - clean, flow_time, is_frozen, draws.num_learned)


def flow_error(velocity: Float[Tensor, "batch draws horizon action"], target: FlowTarget, num_actions: int) -> LossTerm:
    """The square error over the first ``num_actions`` numbers of the actions that are not frozen; what follows them is
    padding."""
    error = (velocity[..., :num_actions].float() - target.velocity[..., :num_actions]).square()
    if target.is_frozen is not None:
        error = error * ~target.is_frozen[..., None]
    return LossTerm(error.sum(), target.num_learned * num_actions)
