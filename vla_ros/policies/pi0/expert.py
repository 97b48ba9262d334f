"""The two towers of pi0: what the text layers keep of the prefix, and the action expert that reads it, layer by layer.

The prefix never sees the suffix, so its keys and values are made once for each observation. Neither does pi0's state
token see the actions or the flow time: it is read once, too, and stands behind the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

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
from vla_ros.policies.modules.layers.heads import additive_mask, widened
from vla_ros.policies.modules.layers.packing import gated_mlp
from vla_ros.policies.modules.layers.sizes import GemmaSizes
from vla_ros.policies.utils.transformers import (
    Rotary,
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


Frozen = TypeVar("Frozen", Norm, Norms)


class KeysValues(NamedTuple):
    """What one layer of the suffix reads besides itself."""

    keys: Float[Tensor, "batch kv_heads slice head_dim"]
    values: Float[Tensor, "batch kv_heads slice head_dim"]


class FlowTimes(NamedTuple):
    """Flow times that nothing is prepared for, as conditions of adaptive norms: of the draws, and where rows are frozen
    also time 0. None where norms don't depend on it."""

    noisy: Float[Tensor, "batch draws width"] | None = None
    clean: Float[Tensor, "batch draws width"] | None = None
    is_frozen: Bool[Tensor, "batch #draws suffix 1"] | None = None


@dataclass(frozen=True)
class Prefix:
    """What the suffix reads: each layer's keys and values, ``bias`` that is -inf at padding, and for how many valid
    positions there are, ``length``, where the suffix's own begin. ``states`` are tokens that follow and are still to be
    run."""

    layers: tuple[KeysValues, ...]
    bias: Float[Tensor, "batch 1 1 slice"]
    length: Float[Tensor, "batch"]
    states: Float[Tensor, "batch rows width"] | None = None


def read_prefix(
    layers: nn.ModuleList, x: Float[Tensor, "batch prefix width"], is_valid: Bool[Tensor, "batch prefix"]
) -> Prefix:
    """Run the text layers; padding is at the right end, so that positions are just counted. Of the last layer there is
    nothing but keys and values."""
    rotary = rotary_angles(x.shape[1], layers[0].head_dim, THETA, x.device).like(x)
    bias, kept = additive_mask(is_valid[:, None, None], x.dtype), []
    for layer in layers:
        x, keys, values = layer.encode(x, rotary, bias)
        kept.append(KeysValues(keys, values))
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

    def extend(self, prefix: Prefix) -> Prefix:
        """The prefix with its states run, which see each other and what is before; their norms are plain."""
        if prefix.states is None:
            return prefix
        rotary = self.rotary(prefix.length, prefix.states.shape[1])
        return self._run(prefix.states[:, None], prefix, self.norms(None), rotary)[1]

    def forward(
        self, x: Float[Tensor, "batch draws suffix width"], prefix: Prefix, norms: Norms, rotary: Rotary
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The suffix after all layers and the final norm; its tokens see each other and the prefix."""
        return _apply(self._run(x, prefix, norms, rotary)[0], norms.final)

    def run(
        self, x: Float[Tensor, "batch draws suffix width"], prefix: Prefix, times: FlowTimes
    ) -> Float[Tensor, "batch draws suffix width"]:
        """The same with nothing prepared: each layer does all of its own at once, the prefix's states among it."""
        states = None if prefix.states is None else prefix.states[:, None]
        rotary = self.rotary(prefix.length, x.shape[2] + (0 if states is None else states.shape[2]))
        for layer, before in zip(self.layers, prefix.layers, strict=True):
            x, states = self.run_layer(layer, x, states, before, prefix.bias, times, rotary)
        return _apply(x, _norm_at(self.norm, times))

    def run_layer(
        self,
        layer: GemmaLayer,
        x: Float[Tensor, "batch draws suffix width"],
        states: Float[Tensor, "batch 1 rows width"] | None,
        before: KeysValues,
        bias: Float[Tensor, "batch 1 1 slice"],
        times: FlowTimes,
        rotary: Rotary,
    ) -> tuple[Tensor, Tensor | None]:
        """One layer over the suffix, and over the states before it, where there are any."""
        norms = _norm_at(layer.input_layernorm, times), _norm_at(layer.post_attention_layernorm, times)
        if states is not None:
            num_states = states.shape[2]
            bias = widened(bias, num_states)
            first = Rotary(rotary.cos[:, :num_states], rotary.sin[:, :num_states])
            states, before = _step(layer, states, before, norms, first, bias)
        draws, num_rows = x.shape[1:3]
        before, turned = KeysValues(*_repeat(before, draws)), Rotary(*_repeat(rotary.last(num_rows), draws))
        return _step(layer, x, before, norms, turned, widened(*_repeat((bias,), draws), num_rows))[0], states

    def _run(self, x: Tensor, prefix: Prefix, norms: Norms, rotary: Rotary) -> tuple[Tensor, Prefix]:
        draws, num_rows = x.shape[1], x.shape[2]
        prefix, rotary = _for_draws(prefix, draws), Rotary(*_repeat(rotary.like(x), draws))
        bias, kept = widened(prefix.bias, num_rows), []
        for layer, before, pair in zip(self.layers, prefix.layers, norms.layers, strict=True):
            x, both = _step(layer, x, before, pair, rotary, bias)
            kept.append(both)
        return x, Prefix(tuple(kept), bias, prefix.length + num_rows)

    def rotary(self, length: Float[Tensor, "batch"], num_rows: int) -> Rotary:
        """Of as many rows behind each prefix."""
        positions = length[:, None] + torch.arange(num_rows, dtype=torch.float32, device=length.device)
        return make_rotary(positions[..., None] * inverse_frequencies(self.layers[0].head_dim, THETA, length.device))


def _step(
    layer: GemmaLayer, x: Tensor, before: KeysValues, norms: tuple[Norm, Norm], rotary: Rotary, bias: Tensor
) -> tuple[Tensor, KeysValues]:
    """One layer over rows that see each other and ``before``, and the keys and values of both."""
    first, second = norms
    queries, *own = layer.project_turned(_apply(x, first).flatten(0, 1), rotary)
    pairs = zip(before, (heads.transpose(1, 2) for heads in own), strict=True)
    kept = KeysValues(*(torch.cat(pair, dim=2) for pair in pairs))
    attended = layer.project_out(attend_grouped(queries, *kept, bias, layer.head_dim**-0.5))
    x = _add(x, attended.view(x.shape), first)
    return _add(x, gated_mlp(layer.mlp, layer.packed, _apply(x, second)), second), kept


def _for_draws(prefix: Prefix, draws: int) -> Prefix:
    """Each sample's as often as there are draws of noise for it."""
    if draws == 1:
        return prefix
    bias, length = _repeat((prefix.bias, prefix.length), draws)
    return Prefix(tuple(KeysValues(*_repeat(layer, draws)) for layer in prefix.layers), bias, length)


def _repeat(tensors: tuple[Tensor, ...], draws: int) -> tuple[Tensor, ...]:
    return tensors if draws == 1 else tuple(x.repeat_interleave(draws, 0) for x in tensors)


def _norm(norm: nn.Module, condition: Tensor | None) -> Norm:
    if condition is None:
        return norm_weight(norm)
    scale, shift, gate = norm.dense(condition).unsqueeze(-2).chunk(3, dim=-1)
    return Modulation(1 + scale, shift, gate)


def _norm_at(norm: nn.Module, times: FlowTimes) -> Norm:
    noisy = _norm(norm, times.noisy)
    if times.clean is None or times.is_frozen is None:
        return noisy
    return freeze_rows(noisy, _norm(norm, times.clean), times.is_frozen)


def freeze_rows(noisy: Frozen, clean: Frozen, is_frozen: Bool[Tensor, "batch #draws suffix 1"]) -> Frozen:
    """``clean`` in the frozen rows, ``noisy`` in the others."""
    return tree_map(lambda frozen, other: torch.where(is_frozen, frozen, other), clean, noisy)


def _apply(x: Tensor, norm: Norm) -> Tensor:
    if isinstance(norm, Modulation):
        return modulated_rms_norm(x, norm.scale, norm.shift, EPSILON)
    return gemma_norm(x, norm, EPSILON)


def _add(x: Tensor, more: Tensor, norm: Norm) -> Tensor:
    return torch.addcmul(x, norm.gate, more) if isinstance(norm, Modulation) else x + more
