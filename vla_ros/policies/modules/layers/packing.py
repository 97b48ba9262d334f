"""Linear layers that read the same input as one matrix product: fewer, larger operators at inference.

The separate weights become views of the packed one: names, values and memory stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Projection = Callable[[Tensor], Tensor]


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

    def __call__(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """The outputs of all layers as one tensor."""
        return F.linear(x, self.weight, self.bias)

    def split(self, x: Float[Tensor, "*rows dim"], first: int = 0) -> tuple[Float[Tensor, "*rows out"], ...]:
        """The outputs of the layers from ``first`` on, as views of one tensor."""
        if first == 0:
            return self(x).split(self.sizes, dim=-1)
        start = sum(self.sizes[:first])
        bias = None if self.bias is None else self.bias[start:]
        return F.linear(x, self.weight[start:], bias).split(self.sizes[first:], dim=-1)


class ReorderedLinear(PackedLinear):
    """On a CPU in float32, also holds a second copy of its weights, in the order in which oneDNN reads them.

    A product of few rows, as of an action chunk, then takes about half the time; elsewhere it is the packed layer.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__(linears)
        self._reordered: Tensor | None = None

    def __call__(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        if not _is_for_onednn(x):
            return super().__call__(x)
        if self._reordered is None:
            num_rows = x.numel() // x.shape[-1]  # a hint for the order; another number of rows gets right results too
            with torch.inference_mode(False), torch.no_grad():
                self._reordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, num_rows)
        return torch.ops.mkldnn._linear_pointwise(x, self._reordered, self.bias, "none", [], "")


def _is_for_onednn(x: Tensor) -> bool:
    """Real numbers on a CPU, with no gradient wanted (inside ``torch.func.vjp`` one is): this product has none."""
    is_plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
    return is_plain and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available()


@dataclass(frozen=True)
class PackedLayer:
    """The projections of one transformer layer as they run; ``out`` and ``down`` read an input of their own."""

    qkv: PackedLinear
    out: Projection
    gate_up: PackedLinear
    down: Projection


def pack_layer(attn: nn.Module, mlp: nn.Module) -> PackedLayer:
    """Pack ``attn.{q,k,v}_proj`` and ``mlp.{gate,up}_proj``, the names in every layer this package runs."""
    qkv = PackedLinear((attn.q_proj, attn.k_proj, attn.v_proj))
    return PackedLayer(qkv, attn.o_proj, PackedLinear((mlp.gate_proj, mlp.up_proj)), mlp.down_proj)


def reorder_layer(attn: nn.Module, mlp: nn.Module, own_inputs: bool = True) -> PackedLayer:
    """As ``pack_layer``, all four reordered; without ``own_inputs`` keys and values are made of something else."""
    return PackedLayer(
        qkv=ReorderedLinear((attn.q_proj, attn.k_proj, attn.v_proj) if own_inputs else (attn.q_proj,)),
        out=ReorderedLinear((attn.o_proj,)),
        gate_up=ReorderedLinear((mlp.gate_proj, mlp.up_proj)),
        down=ReorderedLinear((mlp.down_proj,)),
    )


def project_qkv(
    attn: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "batch rows dim"], num_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the last ``num_rows`` rows of ``x``, keys and values of all, heads still side by side."""
    last = x[:, x.shape[1] - num_rows :]
    if packed is None:
        return attn.q_proj(last), attn.k_proj(x), attn.v_proj(x)
    if num_rows == x.shape[1]:
        return packed.qkv.split(x)
    return attn.q_proj(last), *packed.qkv.split(x, first=1)


def gated_mlp(mlp: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """``down(act(gate(x)) * up(x))``."""
    rows = x.flatten(0, -2)  # a linear layer without bias is one operator on a matrix, and two on more dimensions
    gate, up = (mlp.gate_proj(rows), mlp.up_proj(rows)) if packed is None else packed.gate_up.split(rows)
    down = mlp.down_proj if packed is None else packed.down
    return down(mlp.act_fn(gate) * up).view(x.shape)
