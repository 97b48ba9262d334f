"""The forward pass of a SigLIP vision tower over the modules of transformers: all images in one batch, one grid.

For any tower with SigLIP's module names: ``embeddings.{patch_embedding,position_embedding}``, ``encoder.layers`` and
``post_layernorm``. Sigmoid-loss pre-training: Zhai et al., arXiv 2303.15343; the tower is a pre-norm ViT.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vla_ros.policies.base import Layer
from vla_ros.policies.modules.layers.packing import PackedLinear
from vla_ros.policies.modules.layers.pixels import normalize_patches
from vla_ros.policies.modules.layers.sizes import SiglipSizes

EPSILON = 1e-6
GELU = "gelu_pytorch_tanh"  # of every SigLIP that was released, by its name in transformers


class Siglip(nn.Module):
    """The modules of a tower, by SigLIP's names, for policies that need no model of transformers."""

    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        patch = sizes.patch_size
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, sizes.width, patch, patch)
        self.embeddings.position_embedding = nn.Embedding(sizes.num_patches, sizes.width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_SiglipLayer(sizes) for _ in range(sizes.num_layers))
        self.post_layernorm = nn.LayerNorm(sizes.width, eps=EPSILON)


class _SiglipLayer(nn.Module):
    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(sizes.width, eps=EPSILON)
        self.self_attn = nn.Module()
        self.self_attn.num_heads = sizes.num_heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, nn.Linear(sizes.width, sizes.width))
        self.layer_norm2 = nn.LayerNorm(sizes.width, eps=EPSILON)
        self.mlp = _SiglipMLP(sizes)


class _SiglipMLP(nn.Module):
    def __init__(self, sizes: SiglipSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.mlp_dim)
        self.fc2 = nn.Linear(sizes.mlp_dim, sizes.width)

    def forward(self, x: Float[Tensor, "*rows vision"]) -> Float[Tensor, "*rows vision"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SiglipTower:
    """Runs a tower, which stays where it is in its model; pixels are normalised by ``mean`` and ``std``, by channel."""

    def __init__(self, tower: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._tower, self._mean, self._std = tower, mean, std
        self._packed: tuple[_PackedVision | None, ...] = (None,) * len(tower.encoder.layers)

    def unpacked(self) -> SiglipTower:
        """The same tower, layer by layer as the model has it."""
        return SiglipTower(self._tower, self._mean, self._std)

    def pack_weights(self) -> None:
        """Lay the weights of each layer out for inference."""
        self._packed = tuple(_pack(layer.self_attn, layer.mlp) for layer in self._tower.encoder.layers)

    def __call__(
        self,
        pixel_values: Shaped[Tensor, "batch patches patch"] | Float[Tensor, "images channels height width"],
        positions: Float[Tensor, "image_patches vision"],
    ) -> Float[Tensor, "images image_patches vision"]:
        """The states after ``post_layernorm``; ``positions`` are the position embeddings of an image's patches, row by
        row. Whole images are ready: nothing normalises them."""
        embedding = self._tower.embeddings.patch_embedding
        if pixel_values.ndim == 4:
            x = embedding(pixel_values).flatten(2).transpose(1, 2) + positions
        else:
            patches = pixel_values.reshape(-1, len(positions), pixel_values.shape[-1])
            x = _embed_patches(embedding, patches, self._mean, self._std) + positions
        for layer, packed in zip(self._tower.encoder.layers, self._packed, strict=True):
            x = self.run_layer(layer, packed, x)
        return self._tower.post_layernorm(x)

    def run_layer(
        self, layer: Any, packed: _PackedVision | None, x: Float[Tensor, "images image_patches vision"]
    ) -> Float[Tensor, "images image_patches vision"]:
        """One layer of the tower."""
        x = x + _attention(layer.self_attn, packed, layer.layer_norm1(x))
        return x + _mlp(layer.mlp, packed, layer.layer_norm2(x))

    def layers(self) -> tuple[Layer, ...]:
        """The tower's, in order."""
        return tuple(Layer(layer, "run_layer", self) for layer in self._tower.encoder.layers)


def _embed_patches(
    embedding: nn.Module,
    patches: Shaped[Tensor, "images patches patch"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Tensor, "images patches vision"]:
    """uint8 patches are normalised, and their convolution is a matrix product.

    Floating-point patches are ready. They come from recorded cases, whose outputs carry the rounding of a convolution:
    it differs from that of a matrix product by more than a case may, so they are convolved.
    """
    kernel = embedding.weight
    if patches.dtype == torch.uint8:
        pixels = normalize_patches(patches, mean, std).to(kernel.dtype)
        return F.linear(pixels, kernel.flatten(1), embedding.bias)
    convolved = F.conv2d(patches.to(kernel.dtype).reshape(-1, *kernel.shape[1:]), kernel, embedding.bias)
    return convolved.reshape(*patches.shape[:2], -1)


class _PackedVision(NamedTuple):
    """The projections of one layer as they run."""

    qkv: PackedLinear
    out: PackedLinear
    up: PackedLinear
    down: PackedLinear


def _pack(attn: nn.Module, mlp: nn.Module) -> _PackedVision:
    qkv = PackedLinear((attn.q_proj, attn.k_proj, attn.v_proj))
    return _PackedVision(qkv, PackedLinear((attn.out_proj,)), PackedLinear((mlp.fc1,)), PackedLinear((mlp.fc2,)))


def _mlp(
    mlp: nn.Module, packed: _PackedVision | None, x: Float[Tensor, "images patches vision"]
) -> Float[Tensor, "images patches vision"]:
    if packed is None:
        return mlp(x)
    if getattr(getattr(mlp, "config", None), "hidden_act", GELU) == GELU:
        return packed.down(packed.up.gelu(x))
    return packed.down(mlp.activation_fn(packed.up(x)))


def _attention(
    attn: nn.Module, packed: _PackedVision | None, x: Float[Tensor, "images patches vision"]
) -> Float[Tensor, "images patches vision"]:
    projected = (attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)) if packed is None else packed.qkv.split(x)
    heads = (projection.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for projection in projected)
    out = F.scaled_dot_product_attention(*heads)
    return (attn.out_proj if packed is None else packed.out)(out.transpose(1, 2).flatten(-2))
