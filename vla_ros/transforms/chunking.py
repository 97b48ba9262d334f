"""How much a new chunk is held to the one it follows, after Black et al., "Real-Time Execution of Action Chunking Flow
Policies" (arXiv 2506.07339), section 3."""

from __future__ import annotations

import numpy as np


def guidance_weights(horizon: int, num_executed: int, num_frozen: int) -> np.ndarray:
    """Weights float32 [horizon] of the old chunk's actions at the new chunk's due times: the soft mask.

    With ``H`` the horizon, ``s`` the actions executed for each inference and ``d`` the frozen ones, for which the new
    chunk comes too late: 1 for ``i < d``, ``c (e^c - 1) / (e - 1)`` up to ``H - s`` with
    ``c = (H - s - i) / (H - s - d + 1)``, and 0 after. Raises ValueError unless ``0 <= d <= s <= H - d`` and
    ``s >= 1``.
    """
    if not (0 <= num_frozen <= num_executed <= horizon - num_frozen and num_executed >= 1):
        got = f"{num_executed} actions executed for each inference, {num_frozen} of them frozen"
        raise ValueError(
            f"{got}; expected frozen <= executed <= {horizon} - frozen: the policy's horizon is too short for its delay"
        )
    num_known = horizon - num_executed
    index = np.arange(horizon)
    c = (num_known - index) / (num_known - num_frozen + 1)
    weights = np.where(index < num_frozen, 1.0, c * np.expm1(c) / np.expm1(1.0))
    return np.where(index < num_known, weights, 0.0).astype(np.float32)


def check_guidance(previous_actions: np.ndarray | None, weights: np.ndarray | None, shape: tuple[int, int]) -> None:
    """Look at the guidance of a request for chunks of ``shape`` (horizon, action_dim); none at all is right too.

    Raises ValueError for half of it, another shape, values that are not finite or weights outside 0..1.
    """
    if previous_actions is None and weights is None:
        return
    if previous_actions is None or weights is None:
        got = "previous_actions" if weights is None else "guidance_weights"
        raise ValueError(f"request has {got} alone; expected previous_actions and guidance_weights, or neither")
    for name, array, expected in (
        ("previous_actions", previous_actions, shape),
        ("guidance_weights", weights, shape[:1]),
    ):
        if array.shape != expected:
            raise ValueError(f"request has {name} of shape {array.shape}; the policy expects {expected}")
        if not np.isfinite(array).all():
            raise ValueError(f"request has {name} that are not finite; expected 0 where the old chunk has no value")
    if weights.min() < 0 or weights.max() > 1:
        raise ValueError(f"request has guidance_weights in {weights.min():g}..{weights.max():g}; expected 0..1")
