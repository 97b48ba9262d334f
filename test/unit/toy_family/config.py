"""Configuration of a toy policy."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.policies.config import PolicyConfig


@dataclass(frozen=True)
class ToyConfig(PolicyConfig):
    """``camera_height`` and ``camera_width`` are pixels, of every camera."""

    type: str
    action_horizon: int
    action_dim: int
    state_dim: int
    camera_height: int = 24
    camera_width: int = 32
    hidden_size: int = 8
    state_history: int = 1
