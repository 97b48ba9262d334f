"""Configuration of a SmolVLA policy. Imports no torch, so that the host side can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vla_ros.policies.config import PolicyConfig, Recipe
from vla_ros.strict import check_range

MAX_SIZE, MAX_STEPS, MAX_LAYERS, MAX_TOKENS = 10_000, 1000, 1000, 2048


@dataclass(frozen=True)
class SmolVLAConfig(PolicyConfig):
    """The ``policy:`` group of a policy.yaml.

    ``vlm_config`` is the backbone's own config.json as a mapping; the first ``num_vlm_layers`` of its text layers are
    read, each by the expert layer of its number, or every so many of them where the expert has fewer. An expert layer
    attends to the prefix alone, but with ``self_attention_every`` n that of each n-th text layer, from the first on,
    to the suffix too; 1 is all of them, 0 none. The network's states and actions are padded with zeros to
    ``max_state_dim`` and ``max_action_dim``.

    An instruction has at most ``max_tokens``, cut at its end, or with ``cuts_left`` at its beginning.
    ``image_tokens`` are two, before an image, of which the first comes after it, too, or none;
    ``num_empty_cameras`` have these and no image. ``min_period`` and ``max_period`` bound the embedding of flow times.
    With ``train_expert_only`` the backbone isn't trained.
    """

    # LeRobot 0.6.1's, of its configuration class.
    recipe: ClassVar[Recipe | None] = Recipe(1e-4, 1e-10, 0.9, 0.95, max_grad_norm=10.0, final_scale=0.025)

    type: str
    vlm_config: Mapping[str, Any]
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int = 1
    max_action_dim: int = 32
    max_state_dim: int = 32
    num_vlm_layers: int = 16
    num_expert_layers: int = 16
    expert_hidden_size: int = 720
    expert_intermediate_size: int = 2048
    self_attention_every: int = 2
    max_tokens: int = 48
    cuts_left: bool = False
    image_tokens: tuple[int, ...] = ()
    num_empty_cameras: int = 0
    num_steps: int = 10
    min_period: float = 4e-3
    max_period: float = 4.0
    train_expert_only: bool = True
    num_noise_per_sample: int = 1
    time_dist_alpha: float = 1.0
    time_dist_beta: float = 1.5

    def __post_init__(self) -> None:
        sizes = ("action_horizon", "action_dim", "state_dim", "max_action_dim", "max_state_dim")
        check_range("policy.", self, 1, MAX_SIZE, *sizes, "expert_intermediate_size")
        check_range("policy.", self, 2, MAX_SIZE, "expert_hidden_size")
        check_range("policy.", self, 1, MAX_STEPS, "num_steps", "num_noise_per_sample")
        check_range("policy.", self, 1, MAX_LAYERS, "num_vlm_layers", "num_expert_layers")
        check_range("policy.", self, 0, MAX_LAYERS, "self_attention_every", "num_empty_cameras")
        check_range("policy.", self, 1, MAX_TOKENS, "max_tokens")
        check_range("policy.", self, 1, 1, "state_history")
        for name in ("action", "state"):
            own, padded = getattr(self, f"{name}_dim"), getattr(self, f"max_{name}_dim")
            if own > padded:
                raise ValueError(f"policy.{name}_dim is {own}; expected at most policy.max_{name}_dim, {padded}")
        if self.num_vlm_layers % self.num_expert_layers:
            got = f"policy.num_expert_layers is {self.num_expert_layers}, num_vlm_layers {self.num_vlm_layers}"
            raise ValueError(f"{got}; expected that it divides the other")
        if len(self.image_tokens) not in (0, 2):
            raise ValueError(f"policy.image_tokens are {len(self.image_tokens)}; expected two ids, or none")
        if not 0 < self.min_period < self.max_period:
            raise ValueError(f"policy.min_period is {self.min_period}; expected above 0 and below max_period")

    @property
    def read_layers(self) -> tuple[int, ...]:
        """The text layer that each expert layer reads."""
        return tuple(range(0, self.num_vlm_layers, self.num_vlm_layers // self.num_expert_layers))

    def attends_to_itself(self, layer: int) -> bool:
        """Whether the suffix sees itself in the expert layer of this text layer."""
        return self.self_attention_every > 0 and layer % self.self_attention_every == 0
