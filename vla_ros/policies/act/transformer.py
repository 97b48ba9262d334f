"""The transformer of ACT, with the module names of released checkpoints: positions are added to queries and keys of
every layer, never to values."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla_ros.policies.act.config import ActConfig
from vla_ros.policies.modules.layers.packing import ReorderedLinear, linear
from vla_ros.policies.utils.transformers import constant

TEMPERATURE = 10_000.0
_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class Attention(nn.Module):
    """Multi-head attention whose three projections are one matrix."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        queries: Float[Tensor, "batch rows width"],
        keys: Float[Tensor, "batch others width"],
        values: Float[Tensor, "batch others width"],
        is_seen: Bool[Tensor, "batch others"] | None = None,
    ) -> Float[Tensor, "batch rows width"]:
        """Where ``queries`` are the ``keys``, both are projected at once. Keys that aren't ``is_seen`` are left out."""
        width = self.out_proj.in_features
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if queries is keys:
            projected = linear(queries, weight[: 2 * width], bias[: 2 * width]).chunk(2, dim=-1)
        else:
            projected = linear(queries, weight[:width], bias[:width]), self.project_keys(keys)
        return self.attend(*projected, self.project_values(values), is_seen)

    def project_keys(self, keys: Float[Tensor, "batch others width"]) -> Float[Tensor, "batch others width"]:
        width = self.out_proj.in_features
        return linear(keys, self.in_proj_weight[width : 2 * width], self.in_proj_bias[width : 2 * width])

    def project_values(self, values: Float[Tensor, "batch others width"]) -> Float[Tensor, "batch others width"]:
        start = 2 * self.out_proj.in_features
        return linear(values, self.in_proj_weight[start:], self.in_proj_bias[start:])

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, is_seen: Tensor | None = None
    ) -> Float[Tensor, "batch rows width"]:
        """Of what was projected."""
        heads = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (queries, keys, values))
        mask = None if is_seen is None else is_seen[:, None, None]
        out = F.scaled_dot_product_attention(*heads, mask, dropout_p=self.dropout if self.training else 0.0)
        return linear(out.transpose(1, 2).flatten(-2), self.out_proj.weight, self.out_proj.bias)


class FeedForward(nn.Module):
    """What encoder and decoder layers have in common."""

    def __init__(self, config: ActConfig, num_norms: int) -> None:
        super().__init__()
        self.pre_norm, self.dropout = config.pre_norm, config.dropout
        self.activation = _ACTIVATIONS[config.feedforward_activation]
        self.self_attn = Attention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.feedforward_size)
        self.linear2 = nn.Linear(config.feedforward_size, config.hidden_size)
        for i in range(num_norms):
            self.add_module(f"norm{i + 1}", nn.LayerNorm(config.hidden_size))
        self.packed: tuple[ReorderedLinear, ReorderedLinear] | None = None

    def pack_weights(self) -> None:
        """Lay the two large layers out for inference."""
        self.packed = ReorderedLinear((self.linear1,)), ReorderedLinear((self.linear2,))

    def add(self, x: Tensor, norm: nn.Module, change: Tensor) -> Float[Tensor, "batch rows width"]:
        """``x`` and what a part of the layer made of it, normed unless that was normed before."""
        x = x + F.dropout(change, self.dropout, self.training)
        return x if self.pre_norm else norm(x)

    def normed(self, x: Tensor, norm: nn.Module) -> Float[Tensor, "batch rows width"]:
        """What a part of the layer reads."""
        return norm(x) if self.pre_norm else x

    def feed_forward(self, x: Tensor, norm: nn.Module) -> Float[Tensor, "batch rows width"]:
        up, down = self.packed or (self.linear1, self.linear2)
        hidden = self.activation(up(self.normed(x, norm)))
        return self.add(x, norm, down(F.dropout(hidden, self.dropout, self.training)))

    def attend_to_self(
        self, x: Tensor, positions: Tensor, is_seen: Tensor | None = None
    ) -> Float[Tensor, "batch rows width"]:
        normed = self.normed(x, self.norm1)
        placed = normed + positions
        return self.add(x, self.norm1, self.self_attn(placed, placed, normed, is_seen))


class EncoderLayer(FeedForward):
    def __init__(self, config: ActConfig) -> None:
        super().__init__(config, num_norms=2)

    def forward(self, x: Tensor, positions: Tensor, is_seen: Tensor | None = None) -> Float[Tensor, "batch rows width"]:
        return self.feed_forward(self.attend_to_self(x, positions, is_seen), self.norm2)


class Encoder(nn.Module):
    def __init__(self, config: ActConfig, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(num_layers))
        self.norm = nn.LayerNorm(config.hidden_size) if config.pre_norm else nn.Identity()

    def forward(
        self, x: Tensor, positions: Tensor, is_seen: Bool[Tensor, "batch rows"] | None = None
    ) -> Float[Tensor, "batch rows width"]:
        """Rows that aren't ``is_seen`` are read by none."""
        for layer in self.layers:
            x = layer(x, positions, is_seen)
        return self.norm(x)


class DecoderLayer(FeedForward):
    def __init__(self, config: ActConfig) -> None:
        super().__init__(config, num_norms=3)
        self.multihead_attn = Attention(config)

    def read(self, x: Tensor, queries: Tensor, memory: Tensor, placed: Tensor) -> Float[Tensor, "batch rows width"]:
        """What follows self-attention; ``placed`` is ``memory`` with its positions."""
        asked = self.normed(x, self.norm2) + queries
        x = self.add(x, self.norm2, self.multihead_attn(asked, placed, memory))
        return self.feed_forward(x, self.norm3)

    def run(self, x: Tensor, queries: Tensor, memory: Tensor, placed: Tensor) -> Float[Tensor, "batch rows width"]:
        """All of the layer at once; ``x`` may be the same for the whole batch."""
        return self.read(self.attend_to_self(x, queries).expand(len(memory), -1, -1), queries, memory, placed)


class Decoder(nn.Module):
    """One row for each action; what it starts from depends on weights alone."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def start(self, queries: Float[Tensor, "horizon width"]) -> Float[Tensor, "1 horizon width"]:
        """The rows after the first self-attention: they begin as zeros."""
        return self.layers[0].attend_to_self(torch.zeros_like(queries)[None], queries)

    def forward(
        self,
        started: Float[Tensor, "1 horizon width"],
        queries: Float[Tensor, "horizon width"],
        memory: Float[Tensor, "batch tokens width"],
        positions: Float[Tensor, "tokens width"],
    ) -> Float[Tensor, "batch horizon width"]:
        placed = memory + positions
        x = self.layers[0].read(started.expand(len(memory), -1, -1), queries, memory, placed)
        for layer in self.layers[1:]:
            x = layer.read(layer.attend_to_self(x, queries), queries, memory, placed)
        return self.norm(x)

    def run(
        self,
        queries: Float[Tensor, "horizon width"],
        memory: Float[Tensor, "batch tokens width"],
        positions: Float[Tensor, "tokens width"],
    ) -> Float[Tensor, "batch horizon width"]:
        """The same with nothing prepared: each layer does all of its own at once."""
        x, placed = torch.zeros_like(queries)[None], memory + positions
        for layer in self.layers:
            x = layer.run(x, queries, memory, placed)
        return self.norm(x)


@constant
def image_positions(
    rows: int, cols: int, width: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "places width"]:
    """Of features row by row: sines and cosines in turn, of the place along y, then along x, counted from 1 and as a
    share of the side."""
    along_y, along_x = (_along(num, width // 2) for num in (rows, cols))
    y = along_y[:, None].expand(-1, cols, -1)
    return torch.cat((y, along_x.expand(rows, -1, -1)), dim=-1).flatten(0, 1).to(dtype).to(device)


@constant
def sequence_positions(length: int, width: int, device: torch.device) -> Float[Tensor, "length width"]:
    """Sines and cosines in turn, of the place counted from 0."""
    powers = 2.0 * torch.div(torch.arange(width), 2, rounding_mode="floor").double() / width
    return _interleaved(torch.arange(length).double()[:, None] / TEMPERATURE**powers).float().to(device)


def _along(num: int, width: int) -> Float[Tensor, "num width"]:
    places = torch.arange(1, num + 1, dtype=torch.float32) / (num + 1e-6) * (2 * math.pi)
    powers = 2.0 * torch.div(torch.arange(width, dtype=torch.float32), 2, rounding_mode="floor") / width
    return _interleaved(places[:, None] / TEMPERATURE**powers)


def _interleaved(angles: Float[Tensor, "length width"]) -> Float[Tensor, "length width"]:
    return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=-1).flatten(1)
