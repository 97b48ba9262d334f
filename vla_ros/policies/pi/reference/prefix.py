"""The prefix: every position of every text layer, whatever of it is read.

Qwen3-VL's interleaved mRoPE and deepstack are described in https://arxiv.org/abs/2511.21631.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.policies.modules.layers.decoder import rms_norm_of
from vla_ros.policies.modules.layers.pixels import normalize_patches
from vla_ros.policies.modules.vlm_bridge.paligemma.bridge import PaliGemmaBridge, gemma_norm, norm_weight
from vla_ros.policies.modules.vlm_bridge.qwen.bridge import VISION_ROPE_THETA, QwenBridge
from vla_ros.policies.utils.transformers import inverse_frequencies


class LayerOutputs(NamedTuple):
    """States [batch, prefix, hidden]; keys and values [batch, kv_heads, prefix, head_dim] as a cache would hold
    them."""

    states: Tensor
    keys: Tensor
    values: Tensor


class Rotary(NamedTuple):
    """[batch, 1, rows, head_dim], float32."""

    cos: Tensor
    sin: Tensor


def make_rotary(angles: Tensor) -> Rotary:
    """From angles [batch, rows, head_dim / 2] in rad."""
    both = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return Rotary(both.cos(), both.sin())


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Queries or keys [batch, heads, rows, head_dim], in float32, returned as they came."""
    first, second = x.chunk(2, dim=-1)
    turned = x.float() * rotary.cos + torch.cat((-second, first), dim=-1).float() * rotary.sin
    return turned.to(x.dtype)


def encode_prefix(policy: Any, inputs: Any) -> list[LayerOutputs]:
    """Each text layer on the states of the one before."""
    bridge, mask, deepstack = policy.vlm_bridge, inputs.prefix_mask[:, None], []
    if isinstance(bridge, QwenBridge):
        features, deepstack = _qwen_vision(bridge.causal_model.model.visual, policy.config, inputs)
    else:
        features = bridge.see(inputs, bridge.vision.unpacked())
    x = bridge.join(inputs, features, policy.obs_registers)
    if isinstance(bridge, PaliGemmaBridge):  # which adds it to scores that it has squashed
        mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -torch.inf)
    is_image, rotary = bridge.is_image(inputs), make_rotary(_angles(bridge.language_model.config, inputs.position_ids))
    outputs = []
    for i, layer in enumerate(bridge.language_model.layers):
        x, keys, values = _layer(layer, x, rotary, mask)
        if i < len(deepstack):
            added = torch.zeros_like(x[:, : is_image.shape[1]]).masked_scatter_(is_image, deepstack[i])
            x = x + F.pad(added, (0, 0, 0, len(policy.obs_registers)))
        outputs.append(LayerOutputs(x, keys, values))
    return outputs


def _angles(config: Any, position_ids: Tensor) -> Tensor:
    """Of three axes, frequency ``i`` turns with height or width at every third place of their sections, else with
    time."""
    parameters = config.rope_parameters
    inverse = inverse_frequencies(config.head_dim, parameters["rope_theta"], position_ids.device)
    by_axis = position_ids[..., None].float() * inverse  # [batch, axes, prefix, half]
    angles = by_axis[:, 0].clone()
    for axis in range(1, by_axis.shape[1]):
        places = slice(axis, 3 * parameters["mrope_section"][axis], 3)
        angles[..., places] = by_axis[:, axis, :, places]
    return angles


def _layer(layer: Any, x: Tensor, rotary: Rotary, mask: Tensor) -> LayerOutputs:
    """Pre-norm; Gemma 2 also norms what attention and MLP add, and its names of norms differ then."""
    attended, keys, values = _attention(layer.self_attn, _norm(layer.input_layernorm, x), rotary, mask)
    if not hasattr(layer, "pre_feedforward_layernorm"):
        x = x + attended
        return LayerOutputs(x + layer.mlp(_norm(layer.post_attention_layernorm, x)), keys, values)
    x = x + _norm(layer.post_attention_layernorm, attended)
    out = layer.mlp(_norm(layer.pre_feedforward_layernorm, x))
    return LayerOutputs(x + _norm(layer.post_feedforward_layernorm, out), keys, values)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return rms_norm_of(norm, x) if hasattr(norm, "variance_epsilon") else gemma_norm(x, norm_weight(norm), norm.eps)


def _attention(attn: Any, x: Tensor, rotary: Rotary, mask: Tensor) -> LayerOutputs:
    """Qwen norms queries and keys, Gemma 2 squashes scores."""
    projections = attn.q_proj, attn.k_proj, attn.v_proj
    queries, keys, values = (linear(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for linear in projections)
    if hasattr(attn, "q_norm"):
        queries, keys = _norm(attn.q_norm, queries), _norm(attn.k_norm, keys)
    queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    cap, groups = getattr(attn, "attn_logit_softcapping", None), attn.num_key_value_groups
    if cap is None:
        out = F.scaled_dot_product_attention(queries, keys, values, mask, scale=attn.scaling, enable_gqa=groups > 1)
    else:
        grouped = queries.unflatten(1, (keys.shape[1], groups))
        scores = torch.tanh(grouped @ keys.unsqueeze(2).mT * (attn.scaling / cap)) * cap + mask[:, None]
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        out = (weights @ values.unsqueeze(2)).flatten(1, 2)
    return LayerOutputs(attn.o_proj(out.transpose(1, 2).flatten(2)), keys, values)


def _qwen_vision(visual: Any, config: Any, inputs: Any) -> tuple[Tensor, list[Tensor]]:
    """Features [image_tokens, hidden] of all images in order, and those of the deepstack layers."""
    _, height, width = inputs.image_grid[0]
    patches = inputs.pixel_values.reshape(-1, height * width, inputs.pixel_values.shape[-1])
    kernel, bias = visual.patch_embed.proj.weight, visual.patch_embed.proj.bias
    if patches.dtype == torch.uint8:  # a still image fills both frames that the kernel spans, so their weights add up
        patches, kernel = normalize_patches(patches, config.image_mean, config.image_std), kernel.sum(2)
    x = F.linear(patches.to(kernel.dtype), kernel.flatten(1), bias)
    x = x + _qwen_positions(visual, height, width).to(x.dtype)
    rotary = _qwen_vision_rotary(visual, height, width, x.device)
    deepstack = []
    for i, block in enumerate(visual.blocks):
        attn = block.attn
        heads = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = rotate(heads[0], rotary), rotate(heads[1], rotary), heads[2]
        out = F.scaled_dot_product_attention(queries, keys, values)
        x = x + attn.proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
        if i in visual.deepstack_visual_indexes:
            deepstack.append(visual.deepstack_merger_list[len(deepstack)](x))
    return visual.merger(x), deepstack


def _qwen_positions(visual: Any, height: int, width: int) -> Tensor:
    """The learned square of position embeddings, resized to the image's grid."""
    side = visual.num_grid_per_side
    square = visual.pos_embed.weight.float().T.reshape(1, -1, side, side)
    resized = F.interpolate(square, (height, width), mode="bilinear", align_corners=True)
    return _in_merge_order(resized[0].permute(1, 2, 0), visual.spatial_merge_size)


def _qwen_vision_rotary(visual: Any, height: int, width: int, device: torch.device) -> Rotary:
    """Half of the channels turn with the row, half with the column."""
    inverse = inverse_frequencies(visual.config.hidden_size // visual.config.num_heads // 2, VISION_ROPE_THETA, device)
    rows, cols = (torch.arange(size, device=device)[:, None] * inverse for size in (height, width))
    shape = (height, width, len(inverse))
    angles = torch.cat((rows[:, None].expand(shape), cols[None].expand(shape)), dim=-1)
    return make_rotary(_in_merge_order(angles, visual.spatial_merge_size)[None])


def _in_merge_order(grid: Tensor, merge: int) -> Tensor:
    """[height, width, dim] to [patches, dim]: blocks row by row, and the patches of a block one after another."""
    height, width, dim = grid.shape
    blocks = grid.reshape(height // merge, merge, width // merge, merge, dim)
    return blocks.transpose(1, 2).reshape(-1, dim)
