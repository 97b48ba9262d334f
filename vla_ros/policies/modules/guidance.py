"""Real-time chunking: a new chunk is drawn towards the one being executed, by the gradient of its distance.

After Black et al., "Real-Time Execution of Action Chunking Flow Policies" (arXiv 2506.07339), section 3, in this
project's flow time: 1 is noise, 0 the action, velocity = noise - action.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MAX_STRENGTH = 5.0
DIFFERENCE_STEPS = (0.3, 0.1, 0.03, 0.01)  # of noise with variance 1; in half precision the larger ones are the better
DIFFERENCE_TOLERANCE = 0.2

Velocity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Guidance:
    """The old chunk at the new one's due times, normalised for the new state, and how much to hold to each action.

    ``weights`` are in 0..1: 1 for actions that will be executed in any case, 0 where the old chunk has no value.
    ``beta`` is the largest strength of the correction.
    """

    previous_actions: Float[Tensor, "batch horizon action"]
    weights: Float[Tensor, "batch horizon"]
    beta: float = MAX_STRENGTH

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Guidance | None:
        """That of a request's tensors, batched and on the device; None where it has none."""
        if "previous_actions" not in tensors:
            return None
        return cls(tensors["previous_actions"], tensors["guidance_weights"])

    @property
    def is_frozen(self) -> Bool[Tensor, "batch horizon"]:
        """The actions that can't be changed any more."""
        return self.weights >= 1.0


def guidance_strength(flow_time: float, beta: float) -> float:
    """``min(beta, (tau² + (1 - tau)²) / (tau (1 - tau)))`` with ``tau = 1 - flow_time``, in (0, 1]; beta at tau 0."""
    tau = 1.0 - flow_time
    if tau <= 0.0:
        return beta
    return min(beta, (tau**2 + flow_time**2) / (tau * flow_time))


def guided_velocity(
    velocity: Velocity, actions: Float[Tensor, "batch draws horizon action"], flow_time: float, guidance: Guidance
) -> Float[Tensor, "batch draws horizon action"]:
    """``v - strength * J^T (W * (Y - x_hat))`` with ``x_hat = x - t v`` and its exact Jacobian ``J``.

    ``velocity`` is the policy's at ``flow_time``; it runs once, then once backwards. Columns that pad an action aren't
    drawn anywhere.
    """
    given, pull_back = _linearize(velocity, actions)
    known = guidance.previous_actions[:, None]
    towards = known - (actions - flow_time * given)[..., : known.shape[-1]]
    pull = F.pad(guidance.weights[:, None, :, None] * towards, (0, actions.shape[-1] - known.shape[-1]))
    product = pull - flow_time * pull_back(pull.to(given.dtype))
    return given - guidance_strength(flow_time, guidance.beta) * product


def check_product_sync(velocity: Velocity, actions: Float[Tensor, "batch draws horizon action"]) -> None:
    """Compare the product that guidance takes with a difference of velocities at ``actions``; waits for the device.

    The velocity's part of the Jacobian is compared alone: were it missing, the rest would still be nearly right.
    Raises ValueError where they disagree: a release of torch may give zeros instead of gradients.
    """
    direction = torch.randn(actions.shape, generator=torch.Generator().manual_seed(0)).to(actions)
    _, pull_back = _linearize(velocity, actions)
    ratios = []
    for step in DIFFERENCE_STEPS:
        ahead, behind = velocity(actions + step * direction), velocity(actions - step * direction)
        difference = (ahead - behind) / (2 * step)
        product = pull_back(difference)
        expected, got = difference.double().square().sum().item(), (product.double() * direction).sum().item()
        if abs(got - expected) <= DIFFERENCE_TOLERANCE * expected:
            return
        ratios.append(got / expected if expected else float("nan"))
    raise ValueError(
        f"gradients through the policy are {min(ratios, key=lambda ratio: abs(ratio - 1)):.3g} times what finite "
        f"differences give, expected 1: real-time chunking can't run on torch {torch.__version__}; use another release "
        "of it or another chunk strategy"
    )


def _linearize(velocity: Velocity, actions: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The velocity at ``actions``, and the product of a tensor like it with its transposed Jacobian."""
    given, vjp = torch.func.vjp(velocity, actions)

    def pull_back(cotangent: Tensor) -> Tensor:
        # In this thread: a graph is captured, and operators are recorded, where the call is made.
        with torch.autograd.set_multithreading_enabled(False):
            return vjp(cotangent)[0]

    return given, pull_back
