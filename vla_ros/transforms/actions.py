"""Action semantics: what the numbers of a chunk mean with respect to the robot."""

from __future__ import annotations

import numpy as np

ACTION_MODES = ("relative", "absolute")


def encode_actions(targets: np.ndarray, joint_positions: np.ndarray, mode: str) -> np.ndarray:
    """Absolute joint targets [..., horizon, num_joints] to what the policy learns.

    ``relative`` subtracts the joints measured at ``t_obs``, ``joint_positions`` [..., num_joints].
    """
    assert mode in ACTION_MODES
    return targets - joint_positions[..., None, :] if mode == "relative" else targets


def decode_actions(actions: np.ndarray, joint_positions: np.ndarray, mode: str) -> np.ndarray:
    """The inverse of ``encode_actions``: absolute joint targets [..., horizon, num_joints]."""
    assert mode in ACTION_MODES
    return actions + joint_positions[..., None, :] if mode == "relative" else actions
