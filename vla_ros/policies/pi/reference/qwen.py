"""The prefix of Qwen3-VL: https://arxiv.org/abs/2511.21631; interleaved mRoPE and deepstack are described there."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.pi.reference.parts import (
    LayerOutputs,
    Rotary,
    add_registers,
    decoder_layer,
    frequencies,
    join_heads,
    make_rotary,
    normalize_pixels,
    rotate,
    run_layers,
)

VISION_THETA = 10000.0


def run_prefix(policy: Any, inputs: Any) -> list[LayerOutputs]:
    model, registers = policy.vlm_bridge.causal_model.model, policy.obs_registers
    features, deepstack = _vision(model.visual, policy.config, inputs)
    text = model.language_model
    embeddings = text.embed_tokens(inputs.input_ids)
    is_image = (inputs.input_ids == model.config.image_token_id).unsqueeze(-1)
    x = add_registers(embeddings.masked_scatter(is_image, features), registers)
    rotary = _mrope(text.config, inputs.position_ids)
    mask = inputs.prefix_mask[:, None]
    to_add = iter(deepstack)

    def run(layer: Any, states: Tensor) -> LayerOutputs:
        outputs = decoder_layer(layer, states, rotary, mask)
        features = next(to_add, None)
        if features is None:
            return outputs
        added = torch.zeros_like(embeddings).masked_scatter_(is_image, features)
        return outputs._replace(states=outputs.states + F.pad(added, (0, 0, 0, len(registers))))

    return run_layers(text.layers, x, run)


def _mrope(config: Any, position_ids: Tensor) -> Rotary:
    """Frequency ``i`` turns with height or width at every third place of their sections, else with time."""
    parameters = config.rope_parameters
    inverse = frequencies(config.head_dim, parameters["rope_theta"], position_ids.device)
    by_axis = position_ids[..., None].float() * inverse  # [batch, 3, prefix, half]
    angles = by_axis[:, 0].clone()
    for axis in (1, 2):
        places = slice(axis, 3 * parameters["mrope_section"][axis], 3)
        angles[..., places] = by_axis[:, axis, :, places]
    return make_rotary(angles)


def _vision(visual: Any, config: Any, inputs: Any) -> tuple[Tensor, list[Tensor]]:
    """Features [image_tokens, hidden] of all images in order, and those of the deepstack layers."""
    _, height, width = inputs.image_grid[0]
    patches = inputs.pixel_values.reshape(-1, height * width, inputs.pixel_values.shape[-1])
    projection = visual.patch_embed.proj
    # A still image fills both frames that the kernel spans, so their weights add up.
    kernel = projection.weight.sum(2) if patches.dtype == torch.uint8 else projection.weight
    pixels = normalize_pixels(patches, config.image_mean, config.image_std).to(kernel.dtype)
    x = F.linear(pixels, kernel.flatten(1), projection.bias)
    x = x + _positions(visual, height, width).to(x.dtype)
    rotary = _vision_rotary(visual, height, width, x.device)
    deepstack = []
    for i, block in enumerate(visual.blocks):
        attn = block.attn
        heads = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = rotate(heads[0], rotary), rotate(heads[1], rotary), heads[2]
        x = x + attn.proj(join_heads(F.scaled_dot_product_attention(queries, keys, values)))
        x = x + block.mlp(block.norm2(x))
        if i in visual.deepstack_visual_indexes:
            deepstack.append(visual.deepstack_merger_list[len(deepstack)](x))
    return visual.merger(x), deepstack


def _positions(visual: Any, height: int, width: int) -> Tensor:
    """The learned square of position embeddings, resized to the image's grid."""
    side = visual.num_grid_per_side
    square = visual.pos_embed.weight.float().T.reshape(1, -1, side, side)
    resized = F.interpolate(square, (height, width), mode="bilinear", align_corners=True)
    return _in_merge_order(resized[0].permute(1, 2, 0), visual.spatial_merge_size)


def _vision_rotary(visual: Any, height: int, width: int, device: torch.device) -> Rotary:
    """Half of the channels turn with the row, half with the column."""
    head_dim = visual.config.hidden_size // visual.config.num_heads
    inverse = frequencies(head_dim // 2, VISION_THETA, device)
    rows, cols = (torch.arange(size, device=device)[:, None] * inverse for size in (height, width))
    shape = (height, width, len(inverse))
    angles = torch.cat((rows[:, None].expand(shape), cols[None].expand(shape)), dim=-1)
    return make_rotary(_in_merge_order(angles, visual.spatial_merge_size)[None])


def _in_merge_order(grid: Tensor, merge: int) -> Tensor:
    """[height, width, dim] to [patches, dim]: blocks row by row, and the patches of a block one after another."""
    height, width, dim = grid.shape
    blocks = grid.reshape(height // merge, merge, width // merge, merge, dim)
    return blocks.transpose(1, 2).reshape(-1, dim)
