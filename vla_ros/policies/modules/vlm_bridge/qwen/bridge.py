"""The Qwen3-VL bridge: builds the transformers model from its config and encodes the prefix with its modules.

Same values as transformers' own forward (to rounding), for fixed shapes and one image grid, without what a policy
doesn't need: no caches, no per-image loops, no host synchronisation, no rows of the last layer that nobody reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

from vla_ros.policies.base import Layer
from vla_ros.policies.modules.layers.pixels import normalize_patches
from vla_ros.policies.modules.vlm_bridge.base import EmbeddedPrefix, VLMBridge, read_config
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.utils.transformers import Rotary, apply_rotary, constant, inverse_frequencies, make_rotary

VISION_ROPE_THETA = 10000.0


class QwenBridge(VLMBridge):
    """Qwen3-VL; of its vision tower and text layers only the weights are used."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__(config, Qwen3VLForConditionalGeneration(build_config(config.vlm_config)))

    def num_image_tokens(self, grid: tuple[int, int, int]) -> int:
        return math.prod(grid) // self.causal_model.config.vision_config.spatial_merge_size**2

    def embed(self, inputs: VLMInputs, registers: Float[Tensor, "registers hidden"]) -> EmbeddedPrefix:
        visual, config = self.causal_model.model.visual, self.config
        run = self.run_vision_block
        image_features, deepstack = run_vision(visual, inputs, config.image_mean, config.image_std, run)
        states, is_image = self.join(inputs, image_features, registers), self.is_image(inputs)
        nothing = torch.zeros_like(states[:, : is_image.shape[1]])
        added = (nothing.masked_scatter(is_image, features.to(states.dtype)) for features in deepstack)
        return EmbeddedPrefix(states, tuple(F.pad(image, (0, 0, 0, len(registers))) for image in added))

    def vision_layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(block, "run_vision_block", self) for block in self.causal_model.model.visual.blocks)

    def run_vision_block(
        self, block: Any, x: Float[Tensor, "images patches vision"], rotary: Rotary
    ) -> Float[Tensor, "images patches vision"]:
        """One block of the vision tower."""
        x = x + _vision_attention(block.attn, block.norm1(x), rotary)
        return x + block.mlp(block.norm2(x))

    def make_rotary(self, position_ids: Int64[Tensor, "batch 3 prefix"]) -> Rotary:
        return interleaved_rotary(self.language_model.config, position_ids)


def build_config(document: Mapping[str, Any]) -> Qwen3VLConfig:
    """The transformers configuration; raises ValueError for a key it doesn't know."""
    groups = {"text_config": Qwen3VLTextConfig, "vision_config": Qwen3VLVisionConfig}
    return read_config(Qwen3VLConfig, groups, document)


class _GridConstants(NamedTuple):
    indices: Int64[Tensor, "patches 4"]
    weights: Float[Tensor, "patches 4 1"]
    rotary: Rotary


def run_vision(
    visual: nn.Module,
    inputs: VLMInputs,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    run_block: Callable[[nn.Module, Tensor, Rotary], Tensor],
) -> tuple[Float[Tensor, "image_tokens hidden"], list[Float[Tensor, "image_tokens hidden"]]]:
    """Features of all images, in order, and those of each deepstack layer; one batch, the images share one grid."""
    grid = inputs.image_grid[0]
    assert all(other == grid for other in inputs.image_grid), "images of a batch share one grid"
    num_patches = grid[0] * grid[1] * grid[2]
    config = visual.config
    patches = inputs.pixel_values.reshape(-1, num_patches, inputs.pixel_values.shape[-1])
    constants = _grid_constants(
        grid,
        config.spatial_merge_size,
        visual.num_grid_per_side,
        config.hidden_size // config.num_heads,
        patches.device,
    )
    x = _embed_patches(visual.patch_embed, patches, mean, std)
    x = x + (visual.pos_embed(constants.indices) * constants.weights).sum(1).to(x.dtype)
    deepstack: list[Tensor] = []
    rotary = constants.rotary.like(x)
    for i, block in enumerate(visual.blocks):
        x = run_block(block, x, rotary)
        if i in visual.deepstack_visual_indexes:
            deepstack.append(visual.deepstack_merger_list[len(deepstack)](x))
    return visual.merger(x), deepstack


def interleaved_rotary(config: object, position_ids: Int64[Tensor, "batch 3 prefix"]) -> Rotary:
    """Interleaved mRoPE: frequency ``i`` turns with axis ``i % 3`` inside the sections, with time beyond them."""
    parameters = config.rope_parameters
    axes, frequencies = _mrope_constants(
        config.head_dim, parameters["rope_theta"], tuple(parameters["mrope_section"]), position_ids.device
    )
    return make_rotary(position_ids.float().index_select(1, axes).transpose(1, 2) * frequencies)


@constant
def _mrope_constants(
    head_dim: int, theta: float, sections: tuple[int, ...], device: torch.device
) -> tuple[Int64[Tensor, "half"], Float[Tensor, "half"]]:
    axes = torch.zeros(head_dim // 2, dtype=torch.int64)
    for axis in (1, 2):
        axes[axis : sections[axis] * 3 : 3] = axis
    return axes.to(device), inverse_frequencies(head_dim, theta, device)


def _embed_patches(
    patch_embed: nn.Module, patches: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "images patches vision"]:
    """The patch convolution as a matrix product.

    uint8 patches hold one frame: a still image repeats along time, so the kernel is summed over time instead.
    """
    kernel = patch_embed.proj.weight
    if patches.dtype == torch.uint8:
        patches = normalize_patches(patches, mean, std)
        kernel = kernel.sum(2)
    return F.linear(patches.to(kernel.dtype), kernel.flatten(1), patch_embed.proj.bias)


def _vision_attention(attn: nn.Module, x: Float[Tensor, "images patches vision"], rotary: Rotary) -> Tensor:
    heads, num = attn.qkv(x).unflatten(-1, (3 * attn.num_heads, -1)), attn.num_heads
    queries, keys = apply_rotary(heads[:, :, : 2 * num], rotary).split(num, dim=2)
    values = heads[:, :, 2 * num :]
    out = F.scaled_dot_product_attention(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
    return attn.proj(out.transpose(1, 2).flatten(-2))


@constant
def _grid_constants(
    grid: tuple[int, int, int], merge: int, side: int, head_dim: int, device: torch.device
) -> _GridConstants:
    """For patches in merge-block order: bilinear taps into the learned position grid, and 2-D rotary angles."""
    time, height, width = grid
    shape = (height // merge, merge, width // merge, merge)
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, col = (x.reshape(shape).transpose(1, 2).flatten().repeat(time) for x in (row, col))
    row_taps, row_weights = _linear_taps(row, height, side)
    col_taps, col_weights = _linear_taps(col, width, side)
    indices = (row_taps[:, :, None] * side + col_taps[:, None, :]).flatten(1)
    weights = (row_weights[:, :, None] * col_weights[:, None, :]).flatten(1)
    frequencies = inverse_frequencies(head_dim // 2, VISION_ROPE_THETA, torch.device("cpu"))
    angles = torch.cat((row[:, None] * frequencies, col[:, None] * frequencies), dim=-1)
    rotary = make_rotary(angles[None])
    return _GridConstants(
        indices.to(device), weights[..., None].to(device), Rotary(rotary.cos.to(device), rotary.sin.to(device))
    )


def _linear_taps(position: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """The two neighbours of each position on the learned axis, ends aligned, and their weights."""
    exact = torch.linspace(0, side - 1, size)[position]
    low = exact.long()
    high = (low + 1).clamp(max=side - 1)
    fraction = exact - low
    return torch.stack((low, high), 1), torch.stack((1 - fraction, fraction), 1)
