"""Sizes of the stacks of layers that several families share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.strict import check_range

# Far beyond any model there is.
MAX_LAYERS, MAX_WIDTH = 256, 1 << 17


@dataclass(frozen=True)
class GemmaSizes:
    """A stack of Gemma's layers. Two stacks that attend to each other share all but ``width`` and ``mlp_dim``."""

    width: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        check_range("", self, 1, MAX_WIDTH, "width", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
        check_range("", self, 1, MAX_LAYERS, "num_layers")
        if self.num_heads % self.num_kv_heads or self.head_dim % 2 or self.width % 2:
            got = f"{self.num_heads} heads, {self.num_kv_heads} key/value heads of {self.head_dim}, width {self.width}"
            raise ValueError(f"{got}; expected a multiple of the key/value heads, and even sizes")


@dataclass(frozen=True)
class SiglipSizes:
    """A SigLIP tower; ``image_size`` and ``patch_size`` are pixels along a side."""

    width: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    patch_size: int
    image_size: int

    def __post_init__(self) -> None:
        check_range("", self, 1, MAX_WIDTH, "width", "mlp_dim", "num_heads")
        check_range("", self, 1, MAX_LAYERS, "num_layers", "patch_size")
        check_range("", self, self.patch_size, MAX_LAYERS * self.patch_size, "image_size")
        if self.width % self.num_heads:
            raise ValueError(f"a width of {self.width} and {self.num_heads} heads; expected a multiple of the heads")

    @property
    def num_patches(self) -> int:
        """Of an image."""
        return (self.image_size // self.patch_size) ** 2
