"""The two towers of pi0: what the text layers keep of the prefix, and the action expert that reads it, layer by layer.

The prefix never sees the suffix, so its keys and values are made once for each observation. Neither does pi0's state
token see the actions or the flow time: it is read once, too, and stands behind the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.modules.layers.gemma import (
    EPSILON,
    THETA,
    AdaptiveNorm,
    GemmaLayer,
    RMSNorm,
    attend_grouped,
    gemma_norm,
    norm_weight,
)
from vla_ros.policies.modules.layers.packing import gated_mlp
from vla_ros.policies.modules.layers.sizes import GemmaSizes
from vla_ros.policies.utils.transformers import (
    Rotary,
    apply_rotary,
    inverse_frequencies,
    make_rotary,
    modulated_rms_norm,
    rotary_angles,
)


class Modulation(NamedTuple):
    """What an adaptive norm does: ``f(norm(x) * scale + shift) * gate``; ``scale`` includes the 1."""

    scale: Float[Tensor, "#batch #draws #suffix width"]
    shift: Float[Tensor, "#batch #draws #suffix width"]
    gate: Float[Tensor, "#batch #draws #suffix width"]


Norm = Modulation | Tensor
"""An adaptive norm's modulation, or a plain norm's weight."""


class Norms(NamedTuple):
    """Those of the expert, for one flow time: before attention and MLP of each layer, and the final one."""

    layers: tuple[tuple[Norm, Norm], ...]
    final: Norm


class KeysValues(NamedTuple):
    """What one layer of the suffix reads besides itself."""

    keys: Float[Tensor, "batch kv_heads slice head_dim"]
    values: Float[Tensor, "batch kv_heads slice head_dim"]


@dataclass(frozen=True)
class Prefix:
    """What the suffix reads: each layer's keys and values, ``bias`` that is -inf at padding, and for how many valid
    positions there are, ``length``, where the suffix's own begin."""

    layers: tuple[KeysValues, ...]
    bias: Float[Tensor, "batch 1 1 slice"]
    length: Float[Tensor, "batch"]


def read_prefix(
    layers: nn.ModuleList, x: Float[Tensor, "batch prefix width"], is_valid: Bool[Tensor, "batch prefix"]
) -> Prefix:
    """Run the text layers; padding is at the right end, so that positions are just counted. Of the last layer there is
    nothing but keys and values."""
    rotary = rotary_angles(x.shape[1], layers[0].head_dim, THETA, x.device)
    bias = torch.zeros_like(is_valid, dtype=x.dtype).masked_fill(~is_valid, float("-inf"))[:, None, None]
    kept = []
    for layer in layers:
        normed = gemma_norm(x, norm_weight(layer.input_layernorm), EPSILON)
        if layer.only_reads:
            keys, values = layer.read(normed)
            kept.append(KeysValues(apply_rotary(keys, rotary).transpose(1, 2), values.transpose(1, 2)))
            break
        queries, keys, values = layer.project(normed)
        queries, keys, values = apply_rotary(queries, rotary), apply_rotary(keys, rotary), values.transpose(1, 2)
        kept.append(KeysValues(keys.transpose(1, 2), values))
        x = x + layer.project_out(attend_grouped(queries, *kept[-1], bias, layer.head_dim**-0.5))
        normed = gemma_norm(x, norm_weight(layer.post_attention_layernorm), EPSILON)
        x = x + gated_mlp(layer.mlp, layer.packed, normed)
    return Prefix(tuple(kept), bias, is_valid.sum(1).to(torch.float32))


class Expert(nn.Module):
    """The layers of the suffix and their final norm; ``adaptive`` ones are modulated by the flow time."""

    def __init__(self, sizes: GemmaSizes, adaptive: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GemmaLayer(sizes, adaptive) for _ in range(sizes.num_layers))
        self.norm = (AdaptiveNorm if adaptive else RMSNorm)(sizes.width)

    def pack_weights(self) -> None:
        """Lay the layers' weights out for inference."""
        for layer in self.layers:
            layer.pack_weights(few_rows=True)

    def norms(self, condition: Float[Tensor, "batch draws width"] | None) -> Norms:
        """All norms at the flow time that ``condition`` was made of; plain ones need none."""
        pairs = ((layer.input_layernorm, layer.post_attention_layernorm) for layer in self.layers)
        layers = tuple((_norm(first, condition), _norm(second, condition)) for first, second in pairs)
        return Norms(layers, _norm(self.norm, condition))

    def extend(self, prefix: Prefix, x: Float[Tensor, "batch rows width"], norms: Norms) -> Prefix:
        """The prefix with these tokens behind it, which see each other and what is before."""
        return self._run(x[:, None], prefix, norms)[1]

    def forward(
        self, x: Float[Tensor, "batch draws suffix width"], prefix: Prefix, norms: Norms
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The suffix after all layers and the final norm; its tokens see each other and the prefix."""
        return _apply(self._run(x, prefix, norms)[0], norms.final)

    def _run(self, x: Tensor, prefix: Prefix, norms: Norms) -> tuple[Tensor, Prefix]:
        draws, num_rows = x.shape[1], x.shape[2]
        prefix = _for_draws(prefix, draws)
        positions = prefix.length[:, None] + torch.arange(num_rows, dtype=torch.float32, device=x.device)
        frequencies = inverse_frequencies(self.layers[0].head_dim, THETA, x.device)
        rotary = make_rotary(positions[..., None] * frequencies)
        bias, kept = F.pad(prefix.bias, (0, num_rows)), []
        for layer, before, (first, second) in zip(self.layers, prefix.layers, norms.layers, strict=True):
            own = _turned(layer, _apply(x, first).flatten(0, 1), rotary)
            kept.append(KeysValues(*(torch.cat(pair, dim=2) for pair in zip(before, own[1:], strict=True))))
            attended = layer.project_out(attend_grouped(own[0], *kept[-1], bias, layer.head_dim**-0.5))
            x = _add(x, attended.view(x.shape), first)
            x = _add(x, gated_mlp(layer.mlp, layer.packed, _apply(x, second)), second)
        return x, Prefix(tuple(kept), bias, prefix.length + num_rows)


def _turned(layer: GemmaLayer, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [batch, rows, heads, head_dim], and keys and values with heads before rows."""
    queries, keys, values = layer.project(x)
    both = apply_rotary(torch.cat((queries, keys), dim=2), rotary)
    queries, keys = both.split((queries.shape[2], keys.shape[2]), dim=2)
    return queries, keys.transpose(1, 2), values.transpose(1, 2)


def _for_draws(prefix: Prefix, draws: int) -> Prefix:
    """Each sample's as often as there are draws of noise for it."""
    if draws == 1:
        return prefix
    layers = tuple(KeysValues(*(x.repeat_interleave(draws, 0) for x in layer)) for layer in prefix.layers)
    return Prefix(layers, prefix.bias.repeat_interleave(draws, 0), prefix.length.repeat_interleave(draws, 0))


def _norm(norm: nn.Module, condition: Tensor | None) -> Norm:
    if condition is None:
        return norm_weight(norm)
    scale, shift, gate = norm.dense(condition).unsqueeze(-2).chunk(3, dim=-1)
    return Modulation(1 + scale, shift, gate)


def _apply(x: Tensor, norm: Norm) -> Tensor:
    if isinstance(norm, Modulation):
        return modulated_rms_norm(x, norm.scale, norm.shift, EPSILON)
    return gemma_norm(x, norm, EPSILON)


def _add(x: Tensor, more: Tensor, norm: Norm) -> Tensor:
    return torch.addcmul(x, norm.gate, more) if isinstance(norm, Modulation) else x + more
