"""The action expert of SmolVLA: Llama layers beside those of the text model, whose keys and values they read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vla_ros.policies.modules.action_expert.dit import GatedMLP, KeysValues
from vla_ros.policies.modules.layers.llama import Heads, attend, finish_layer, read_heads, rms_norm_of
from vla_ros.policies.modules.layers.packing import PackedLayer, reorder_layer
from vla_ros.policies.utils.transformers import Rotary, apply_rotary


@dataclass(frozen=True)
class HeadSizes:
    """Those of the text model, which the expert shares."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim


class RMSNorm(nn.RMSNorm):
    """With the name that Llama's norms have for their constant."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps)
        self.variance_epsilon = eps


class ExpertAttention(nn.Module):
    """The weights of a layer's attention; keys and values are made of the suffix, or of the prefix's (``is_cross``)."""

    def __init__(self, width: int, sizes: HeadSizes, is_cross: bool) -> None:
        super().__init__()
        self.head_dim, source = sizes.head_dim, sizes.kv_size if is_cross else width
        self.q_proj = nn.Linear(width, sizes.num_heads * sizes.head_dim, bias=False)
        self.k_proj = nn.Linear(source, sizes.kv_size, bias=False)
        self.v_proj = nn.Linear(source, sizes.kv_size, bias=False)
        self.o_proj = nn.Linear(sizes.num_heads * sizes.head_dim, width, bias=False)


@dataclass(frozen=True)
class SuffixView:
    """What the suffix sees: the ``mask``, as numbers that are added to scores, and how its rows are turned, over the
    prefix alone (from 0 on) or over prefix and suffix (behind the prefix)."""

    over_prefix: Float[Tensor, "batch 1 1 prefix"]
    over_both: Float[Tensor, "batch 1 horizon both"]
    turned_alone: Rotary
    turned_behind: Rotary


class ExpertLayer(nn.Module):
    def __init__(self, width: int, intermediate: int, sizes: HeadSizes, is_cross: bool) -> None:
        super().__init__()
        self.is_cross = is_cross
        self.input_layernorm = RMSNorm(width, sizes.eps)
        self.self_attn = ExpertAttention(width, sizes, is_cross)
        self.post_attention_layernorm = RMSNorm(width, sizes.eps)
        self.mlp = GatedMLP(width, intermediate)
        self.packed: PackedLayer | None = None

    def pack_weights(self) -> None:
        """Lay the weights out for inference."""
        self.packed = reorder_layer(self.self_attn, self.mlp, own_inputs=not self.is_cross)

    def read(self, prefix: KeysValues) -> KeysValues:
        """The keys and values of the prefix for this layer, the same for every step."""
        if not self.is_cross:
            return prefix
        attn = self.self_attn
        projected = (
            project(heads.transpose(1, 2).flatten(2))
            for project, heads in ((attn.k_proj, prefix.keys), (attn.v_proj, prefix.values))
        )
        return KeysValues(*(rows.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for rows in projected))

    def run(
        self, x: Float[Tensor, "batch horizon width"], prefix: KeysValues, view: SuffixView
    ) -> Float[Tensor, "batch horizon width"]:
        """All of the layer at once, from the prefix as the text layer has it; ``x`` may have several draws for each."""
        kept = self.read(prefix)
        return self.forward(x, KeysValues(*repeat(kept, len(x) // len(kept.keys))), view)

    def forward(
        self, x: Float[Tensor, "batch horizon width"], prefix: KeysValues, view: SuffixView
    ) -> Float[Tensor, "batch horizon width"]:
        if self.is_cross:
            rows = rms_norm_of(self.input_layernorm, x)
            queries = (self.self_attn.q_proj if self.packed is None else self.packed.qkv)(rows)
            queries = apply_rotary(queries.unflatten(-1, (-1, self.self_attn.head_dim)), view.turned_alone)
            attended = attend(Heads(queries.transpose(1, 2), *prefix), view.over_prefix)
        else:
            own = read_heads(self, self.packed, x, view.turned_behind, x.shape[1])
            keys, values = (torch.cat(pair, dim=2) for pair in ((prefix.keys, own.keys), (prefix.values, own.values)))
            attended = attend(Heads(own.queries, keys, values), view.over_both)
        return finish_layer(self, self.packed, x, attended)


def repeat(tensors: tuple[Tensor, ...], num: int) -> tuple[Tensor, ...]:
    """Each sample ``num`` times, for as many draws of noise."""
    return tensors if num == 1 else tuple(x.repeat_interleave(num, dim=0) for x in tensors)


class Expert(nn.Module):
    """``is_cross`` says of each layer whether it reads the prefix alone."""

    def __init__(self, width: int, intermediate: int, sizes: HeadSizes, is_cross: tuple[bool, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ExpertLayer(width, intermediate, sizes, cross) for cross in is_cross)
        self.norm = RMSNorm(width, sizes.eps)

    def pack_weights(self) -> None:
        for layer in self.layers:
            layer.pack_weights()

    def forward(
        self, x: Float[Tensor, "batch horizon width"], prefixes: tuple[KeysValues, ...], view: SuffixView
    ) -> Float[Tensor, "batch horizon width"]:
        """The suffix after all layers and the final norm, from prefixes as the layers read them."""
        for layer, prefix in zip(self.layers, prefixes, strict=True):
            x = layer(x, prefix, view)
        return rms_norm_of(self.norm, x)

    def run(
        self, x: Float[Tensor, "batch horizon width"], prefixes: tuple[KeysValues, ...], view: SuffixView
    ) -> Float[Tensor, "batch horizon width"]:
        """The same with nothing prepared: each layer reads its prefix at once."""
        for layer, prefix in zip(self.layers, prefixes, strict=True):
            x = layer.run(x, prefix, view)
        return rms_norm_of(self.norm, x)
