"""Pieces that several of the models share: rotary embedding, RMS norm, pixels, and the decoder layer of Llama and
Qwen."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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


def frequencies(dim: int, theta: float, device: torch.device) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[batch, rows, heads * head_dim] to [batch, heads, rows, head_dim]."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def normalize_pixels(patches: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Patches as they come from a processor; uint8 ones, channels first, to ``(x / 255 - mean) / std``."""
    if patches.dtype != torch.uint8:
        return patches
    means, stds = _pixel_constants(mean, std, patches.device)
    return ((patches.unflatten(-1, (len(mean), -1)) / 255 - means) / stds).flatten(-2)


@lru_cache(maxsize=4)
def _pixel_constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Made once: bringing them to a device makes the host wait."""
    with torch.inference_mode(False):
        return tuple(torch.tensor(x, device=device)[:, None] for x in (mean, std))


def add_registers(embeddings: Tensor, registers: Tensor) -> Tensor:
    return torch.cat((embeddings, registers.expand(len(embeddings), -1, -1)), dim=1)


def text_rotary(config: Any, position_ids: Tensor) -> Rotary:
    """Of positions [batch, 1, prefix]."""
    inverse = frequencies(config.head_dim, config.rope_parameters["rope_theta"], position_ids.device)
    return make_rotary(position_ids[:, 0, :, None].float() * inverse)


def run_layers(layers: Any, x: Tensor, run: Callable[[Any, Tensor], LayerOutputs]) -> list[LayerOutputs]:
    """Each layer on the states of the one before."""
    outputs = []
    for layer in layers:
        outputs.append(run(layer, x))
        x = outputs[-1].states
    return outputs


def project(attn: Any, x: Tensor, head_dim: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, split into heads."""
    return tuple(split_heads(projection(x), head_dim) for projection in (attn.q_proj, attn.k_proj, attn.v_proj))


def decoder_layer(layer: Any, x: Tensor, rotary: Rotary, mask: Tensor) -> LayerOutputs:
    """Llama's, and Qwen's, which also norms queries and keys."""
    attn = layer.self_attn
    normed = rms_norm(x, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
    queries, keys, values = project(attn, normed, attn.head_dim)
    if hasattr(attn, "q_norm"):
        queries = rms_norm(queries, attn.q_norm.weight, attn.q_norm.variance_epsilon)
        keys = rms_norm(keys, attn.k_norm.weight, attn.k_norm.variance_epsilon)
    queries, keys = rotate(queries, rotary), rotate(keys, rotary)
    gqa = attn.num_key_value_groups > 1
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=gqa)
    x = x + attn.o_proj(join_heads(out))
    norm = layer.post_attention_layernorm
    return LayerOutputs(x + layer.mlp(rms_norm(x, norm.weight, norm.variance_epsilon)), keys, values)


def siglip(tower: Any, patches: Tensor, positions: Tensor) -> Tensor:
    """All images [images, patches, patch] in one batch, to states [images, patches, vision]."""
    kernel = tower.embeddings.patch_embedding
    x = F.linear(patches.to(kernel.weight.dtype), kernel.weight.flatten(1), kernel.bias) + positions
    for layer in tower.encoder.layers:
        attn, normed = layer.self_attn, layer.layer_norm1(x)
        heads = F.scaled_dot_product_attention(*project(attn, normed, attn.head_dim))
        x = x + attn.out_proj(join_heads(heads))
        x = x + layer.mlp(layer.layer_norm2(x))
    return tower.post_layernorm(x)
