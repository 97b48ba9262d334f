"""Configuration of pi0 and pi0.5. Imports no torch, so that the host side can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vla_ros.policies.config import PolicyConfig, Recipe
from vla_ros.policies.modules.layers.sizes import GemmaSizes, SiglipSizes
from vla_ros.strict import check_choice, check_range

VARIANTS = ("pi0", "pi05")
TIME_RULES = ("product", "sum")
MAX_SIZE, MAX_STEPS, MAX_VOCABULARY = 10_000, 1000, 1 << 24


@dataclass(frozen=True)
class Pi0Config(PolicyConfig):
    """The ``policy:`` group of a policy.yaml.

    ``variant`` says how the network is conditioned: ``pi0`` by a token for the state and by the flow time beside each
    action, ``pi05`` by norms that depend on the flow time; its state is words of the prompt. ``text`` reads the
    prefix, ``expert`` the actions. ``state_dim`` and ``action_dim`` are the robot's; the network's are padded to
    ``padded_state_dim`` and ``padded_action_dim``. The time of a step is a ``product``, or the ``sum`` in float32 of
    those before it, as ``time_rule`` says. ``max_frozen_actions`` is up to how many actions of a chunk training gave
    clean, for real-time chunking without gradients.
    """

    # LeRobot 0.6.1's, of its configuration class.
    recipe: ClassVar[Recipe | None] = Recipe(2.5e-5, 0.01, 0.9, 0.95, max_grad_norm=1.0, final_scale=0.1)

    type: str
    variant: str
    vocab_size: int
    text: GemmaSizes
    expert: GemmaSizes
    vision: SiglipSizes
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int = 1
    padded_state_dim: int = 32
    padded_action_dim: int = 32
    num_steps: int = 10
    min_period: float = 0.004
    max_period: float = 4.0
    time_rule: str = "product"
    max_frozen_actions: int = 0
    num_noise_per_sample: int = 1
    time_dist_alpha: float = 1.0
    time_dist_beta: float = 1.5

    @property
    def normalization(self) -> str:
        """The prompt of pi0.5 tells a state in -1..1."""
        return "quantile" if self.variant == "pi05" else super().normalization

    def __post_init__(self) -> None:
        check_choice("policy.variant", self.variant, VARIANTS)
        check_choice("policy.time_rule", self.time_rule, TIME_RULES)
        check_range("policy.", self, 1, MAX_SIZE, "action_horizon", "padded_action_dim", "padded_state_dim")
        check_range("policy.", self, 1, self.padded_action_dim, "action_dim")
        check_range("policy.", self, 1, self.padded_state_dim, "state_dim")
        check_range("policy.", self, 1, MAX_STEPS, "num_steps", "num_noise_per_sample")
        check_range("policy.", self, 1, 1, "state_history")
        check_range("policy.", self, 1, MAX_VOCABULARY, "vocab_size")
        check_range("policy.", self, 0, self.action_horizon - 1, "max_frozen_actions")
        if not 0 < self.min_period < self.max_period:
            got = f"min_period is {self.min_period} and max_period {self.max_period}"
            raise ValueError(f"policy.{got}; expected 0 < min_period < max_period")
        shared = ("num_layers", "num_heads", "num_kv_heads", "head_dim")
        if any(getattr(self.text, name) != getattr(self.expert, name) for name in shared):
            raise ValueError(f"policy.expert reads the layers of policy.text; make {', '.join(shared)} equal")
