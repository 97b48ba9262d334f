"""Linear layers that read the same input as one matrix product: fewer, larger operators at inference.

The separate weights become views of the packed one: names, values and memory stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PackedLinear:
    """Several ``nn.Linear`` over one input, their outputs side by side.

    To be made when the weights are where they will stay: moving the module afterwards parts them again.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.sizes = [linear.out_features for linear in linears]
        with torch.no_grad():
            self.weight = torch.cat([linear.weight for linear in linears])
            biases = [linear.bias for linear in linears]
            self.bias = None if biases[0] is None else torch.cat(biases)
        for i, linear in enumerate(linears):
            linear.weight = nn.Parameter(self.weight.split(self.sizes)[i], requires_grad=False)
            if self.bias is not None:
                linear.bias = nn.Parameter(self.bias.split(self.sizes)[i], requires_grad=False)

    def __call__(self, x: Float[Tensor, "*rows dim"], first: int = 0) -> tuple[Float[Tensor, "*rows out"], ...]:
        """The outputs of the layers from ``first`` on, as views of one tensor."""
        start = sum(self.sizes[:first])
        bias = None if self.bias is None else self.bias[start:]
        return F.linear(x, self.weight[start:], bias).split(self.sizes[first:], dim=-1)


@dataclass(frozen=True)
class PackedLayer:
    """The packed projections of one transformer layer; ``qkv`` is None where keys and values read something else."""

    qkv: PackedLinear | None
    gate_up: PackedLinear


def pack_layer(attn: nn.Module, mlp: nn.Module, with_qkv: bool = True) -> PackedLayer:
    """Pack ``attn.{q,k,v}_proj`` and ``mlp.{gate,up}_proj``, the names in every layer this package runs."""
    qkv = PackedLinear((attn.q_proj, attn.k_proj, attn.v_proj)) if with_qkv else None
    return PackedLayer(qkv, PackedLinear((mlp.gate_proj, mlp.up_proj)))


def project_qkv(
    attn: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "batch rows dim"], num_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the last ``num_rows`` rows of ``x``, keys and values of all, heads still side by side."""
    last = x[:, x.shape[1] - num_rows :]
    if packed is None or packed.qkv is None:
        return attn.q_proj(last), attn.k_proj(x), attn.v_proj(x)
    if num_rows == x.shape[1]:
        return packed.qkv(x)
    return attn.q_proj(last), *packed.qkv(x, first=1)


def gated_mlp(
    mlp: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "*rows dim"]
) -> Float[Tensor, "*rows dim"]:
    """``down(act(gate(x)) * up(x))``."""
    rows = x.flatten(0, -2)  # a linear layer without bias is one operator on a matrix, and two on more dimensions
    gate, up = (mlp.gate_proj(rows), mlp.up_proj(rows)) if packed is None else packed.gate_up(rows)
    return mlp.down_proj(mlp.act_fn(gate) * up).view(x.shape)
