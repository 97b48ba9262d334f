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

    def num_learned(self, num_known: np.ndarray | None) -> int:
        """How many actions of the batch are learned, over all draws, where ``num_known`` [batch] are known of each
        sample; None: all."""
        batch, draws, horizon, _ = self.noise.shape
        known = np.full(batch, horizon) if num_known is None else num_known
        frozen = np.zeros((batch, draws), np.int64) if self.num_frozen is None else self.num_frozen.numpy()
        return int((known[:, None] - frozen).clip(0).sum())


@dataclass(frozen=True)
class FlowTarget:
    """What the draws make of clean actions: ``noisy`` ones, given clean where ``is_frozen``, and the ``velocity`` to be
    said of them where ``is_learned``, all where that is None: of ``num_learned`` actions."""

    noisy: Float[Tensor, "batch draws horizon action"]
    velocity: Float[Tensor, "batch draws horizon action"]
    time: Float[Tensor, "batch draws"]
    is_frozen: Bool[Tensor, "batch draws horizon"] | None
    is_learned: Bool[Tensor, "batch draws horizon"] | None
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


def flow_target(
    actions: Float[Tensor, "batch horizon action"], draws: FlowDraws, num_known: np.ndarray | None = None
) -> FlowTarget:
    """Straight lines from the actions at flow time 0 to the noise at 1, on the actions' device. Of each sample the
    first ``num_known`` int64 [batch] actions are learned, all by default: what follows lies beyond its episode."""
    noise, flow_time = draws.noise.to(actions.device), draws.time.to(actions.device)
    clean, time, is_frozen, is_learned = actions[:, None], flow_time[..., None, None], None, None
    rows = torch.arange(actions.shape[1], device=actions.device)
    if draws.num_frozen is not None:
        is_frozen = rows < draws.num_frozen.to(actions.device)[..., None]
        time = torch.where(is_frozen[..., None], 0.0, time)
        is_learned = ~is_frozen
    if num_known is not None:
        is_known = rows < torch.from_numpy(num_known).to(actions.device)[:, None, None]
        is_learned = is_known.expand(noise.shape[:3]) if is_learned is None else is_learned & is_known
    num_learned = draws.num_learned(num_known)
    return FlowTarget(clean + time * (noise - clean), noise - clean, flow_time, is_frozen, is_learned, num_learned)


def flow_error(velocity: Float[Tensor, "batch draws horizon action"], target: FlowTarget, num_actions: int) -> LossTerm:
    """The square error over the first ``num_actions`` numbers of the actions that are learned; what follows them is
    padding."""
    error = (velocity[..., :num_actions].float() - target.velocity[..., :num_actions]).square()
    if target.is_learned is not None:
        error = error * target.is_learned[..., None]
    return LossTerm(error.sum(), target.num_learned * num_actions)
