"""What training draws and measures for a policy with flow matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class FlowDraws:
    """The random part of a flow-matching loss: noise and flow time of each draw.

    The first ``num_frozen`` actions of a draw are given clean and not learned; None where none are.
    """

    noise: Float[Tensor, "batch draws horizon action"]
    time: Float[Tensor, "batch draws"]
    num_frozen: Int64[Tensor, "batch draws"] | None = None


@dataclass(frozen=True)
class FlowTarget:
    """What the draws make of clean actions: ``noisy`` ones, and the ``velocity`` to be said of them, but where
    ``is_frozen``."""

    noisy: Float[Tensor, "batch draws horizon action"]
    velocity: Float[Tensor, "batch draws horizon action"]
    is_frozen: Bool[Tensor, "batch draws horizon"] | None


def sample_draws(
    actions: Float[Tensor, "batch horizon action"], num_draws: int, beta: float, alpha: float, max_frozen: int
) -> FlowDraws:
    """Noise, times ``0.999 b + 0.001`` with ``b ~ Beta(beta, alpha)``, and 0 up to ``max_frozen`` frozen actions, each
    number as often."""
    batch = actions.shape[0]
    noise = torch.randn(batch, num_draws, *actions.shape[1:], device=actions.device)
    shape = actions.new_ones(batch, num_draws)
    time = 0.999 * torch.distributions.Beta(shape * beta, shape * alpha, validate_args=False).sample() + 0.001
    if not max_frozen:
        return FlowDraws(noise, time)
    return FlowDraws(noise, time, torch.randint(max_frozen + 1, (batch, num_draws), device=actions.device))


def flow_target(actions: Float[Tensor, "batch horizon action"], draws: FlowDraws) -> FlowTarget:
    """Straight lines from the actions at flow time 0 to the noise at 1."""
    clean, time, is_frozen = actions[:, None], draws.time[..., None, None], None
    if draws.num_frozen is not None:
        is_frozen = torch.arange(actions.shape[1], device=actions.device) < draws.num_frozen[..., None]
        time = torch.where(is_frozen[..., None], 0.0, time)
    return FlowTarget(clean + time * (draws.noise - clean), draws.noise - clean, is_frozen)


def flow_mse(velocity: Float[Tensor, "batch draws horizon action"], target: FlowTarget) -> Float[Tensor, ""]:
    """The mean square error over the actions that are not frozen."""
    if target.is_frozen is None:
        return F.mse_loss(velocity.float(), target.velocity)
    is_learned = ~target.is_frozen
    error = (velocity.float() - target.velocity).square() * is_learned[..., None]
    return error.sum() / (is_learned.sum() * velocity.shape[-1])
