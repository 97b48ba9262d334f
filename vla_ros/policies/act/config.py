"""Configuration of an ACT policy. Imports no torch, so that the host side can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vla_ros.policies.config import PolicyConfig, Recipe
from vla_ros.strict import check_choice, check_range

MAX_SIZE, MAX_LAYERS, MAX_SIDE = 100_000, 100, 8192
ACTIVATIONS = ("relu", "gelu")
# Blocks of each of the four groups, and whether a block has three convolutions instead of two.
BACKBONES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


@dataclass(frozen=True)
class CameraInput:
    """One camera's pictures: (height, width) in pixels, and how values in 0..1 are normalised by channel,
    ``(x - mean) / std``."""

    size: tuple[int, ...]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(1 <= side <= MAX_SIDE for side in self.size):
            raise ValueError(f"camera's size is {list(self.size)}; expected its height and width in pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise ValueError("camera's mean and std are not three numbers each, std other than 0; one for each channel")


@dataclass(frozen=True)
class ActConfig(PolicyConfig):
    """The ``policy:`` group of a policy.yaml.

    ``cameras`` are what the policy was trained on, in its order. ``backbone_width`` is that of the first convolution,
    ``dilate_last`` keeps the last group's resolution. With ``use_vae`` training has a style variable of ``latent_dim``
    numbers, 0 at inference, and ``kl_weight`` weighs how far it strays from a normal distribution.
    """

    # LeRobot 0.6.1's, of its configuration class.
    recipe: ClassVar[Recipe | None] = Recipe(1e-5, 1e-4, 0.9, 0.999, max_grad_norm=10.0, final_scale=1.0)

    type: str
    cameras: tuple[CameraInput, ...]
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int = 1
    backbone: str = "resnet18"
    backbone_width: int = 64
    dilate_last: bool = False
    hidden_size: int = 512
    num_heads: int = 8
    feedforward_size: int = 3200
    feedforward_activation: str = "relu"
    pre_norm: bool = False
    num_encoder_layers: int = 4
    num_decoder_layers: int = 1
    use_vae: bool = True
    latent_dim: int = 32
    num_vae_encoder_layers: int = 4
    kl_weight: float = 10.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_range("policy.", self, 1, MAX_SIZE, "action_horizon", "action_dim", "state_dim", "latent_dim")
        check_range("policy.", self, 1, MAX_SIZE, "hidden_size", "num_heads", "feedforward_size", "backbone_width")
        layers = ("num_encoder_layers", "num_decoder_layers", "num_vae_encoder_layers")
        check_range("policy.", self, 1, MAX_LAYERS, *layers)
        check_range("policy.", self, 0, 1, "dropout", "state_history")
        check_choice("policy.backbone", self.backbone, BACKBONES)
        check_choice("policy.feedforward_activation", self.feedforward_activation, ACTIVATIONS)
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            got = f"policy.hidden_size is {self.hidden_size}, num_heads {self.num_heads}"
            raise ValueError(f"{got}; expected a multiple of both 4 and the number of heads")
        if self.dilate_last and not BACKBONES[self.backbone][1]:
            got = f"policy.dilate_last with {self.backbone}"
            raise ValueError(f"{got}; expected resnet50, resnet101 or resnet152, whose blocks can be dilated")
        if not self.cameras:
            raise ValueError("policy.cameras is empty; expected at least one")
