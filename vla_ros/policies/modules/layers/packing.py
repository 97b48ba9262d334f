"""Linear layers that read the same input as one matrix product: fewer, larger operators at inference.

The separate weights become views of the packed one: names, values and memory stay as they were.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
"""Where oneDNN takes weights as they lie without being slow; elsewhere it may want an order of its own."""


class PackedLinear:
    """Several ``nn.Linear`` over one input, their outputs side by side.

    To be made when the weights are where they will stay: moving the module afterwards parts them again.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.sizes = [linear.out_features for linear in linears]
        self.weight = _side_by_side([each.weight for each in linears])
        self.bias = None if linears[0].bias is None else _side_by_side([each.bias for each in linears])
        for i, each in enumerate(linears):
            each.weight = nn.Parameter(self.weight.split(self.sizes)[i], requires_grad=False)
            if self.bias is not None:
                each.bias = nn.Parameter(self.bias.split(self.sizes)[i], requires_grad=False)

    def __call__(
        self, x: Float[Tensor, "*rows dim"], bias: Float[Tensor, "out"] | None = None
    ) -> Float[Tensor, "*rows out"]:
        """The outputs of all layers as one tensor; ``bias`` takes the place of their own."""
        return linear(x, self.weight, self.bias if bias is None else bias)

    def add_to(self, x: Float[Tensor, "*rows out"], rows: Float[Tensor, "all_rows dim"]) -> Float[Tensor, "*rows out"]:
        """``x + self(rows)``; on an accelerator in the memory of ``x``, as part of the product. What is compiled or
        exported decides itself where its sums go."""
        elsewhere = rows.device.type == "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if elsewhere or self.bias is not None:
            return x + self(rows).view(x.shape)
        x.flatten(0, -2).addmm_(rows, self.weight.t())
        return x

    def absorb(self, shifts: Float[Tensor, "steps dim"]) -> tuple[Float[Tensor, "out"], ...]:
        """For each of ``shifts`` the bias with which ``x`` gives what ``x + shift`` gives with their own."""
        return tuple(linear(shifts, self.weight, self.bias).unbind())

    def gelu(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """The outputs of all layers through GELU, by its approximation with tanh."""
        if IS_X86 and _is_for_onednn(x):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "tanh")
        return F.gelu(self(x), approximate="tanh")

    def split(self, x: Float[Tensor, "*rows dim"], first: int = 0) -> tuple[Float[Tensor, "*rows out"], ...]:
        """The outputs of the layers from ``first`` on, as views of one tensor."""
        if first == 0:
            return self(x).split(self.sizes, dim=-1)
        start = sum(self.sizes[:first])
        bias = None if self.bias is None else self.bias[start:]
        return linear(x, self.weight[start:], bias).split(self.sizes[first:], dim=-1)


class ReorderedLinear(PackedLinear):
    """On a CPU in float32, also holds a second copy of its weights, in the order in which oneDNN reads them.

    A product of few rows, as of an action chunk, then takes a sixth less time; elsewhere it is the packed layer.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__(linears)
        self._reordered: Tensor | None = None

    def __call__(
        self, x: Float[Tensor, "*rows dim"], bias: Float[Tensor, "out"] | None = None
    ) -> Float[Tensor, "*rows out"]:
        if not _is_for_onednn(x):
            return super().__call__(x, bias)
        if self._reordered is None:
            num_rows = x.numel() // x.shape[-1]  # a hint for the order; another number of rows gets right results too
            with torch.inference_mode(False), torch.no_grad():
                self._reordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, num_rows)
        bias = self.bias if bias is None else bias
        return torch.ops.mkldnn._linear_pointwise(x, self._reordered, bias, "none", [], "")


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """One tensor, which a single part is already."""
    return torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()


def linear(
    x: Float[Tensor, "*rows dim"], weight: Float[Tensor, "out dim"], bias: Float[Tensor, "out"] | None = None
) -> Float[Tensor, "*rows out"]:
    """``F.linear``, on an x86 in float32 by oneDNN: torch's own product there is MKL's, which takes twice the time on
    processors of other makers."""
    if IS_X86 and _is_for_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _is_for_onednn(x: Tensor) -> bool:
    """Real numbers on a CPU, with no gradient wanted (inside ``torch.func.vjp`` one is): this product has none. What is
    compiled chooses its products itself."""
    if torch.compiler.is_compiling():
        return False
    is_plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
    return is_plain and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available()


@dataclass(frozen=True)
class PackedLayer:
    """The projections of one transformer layer as they run; ``out`` and ``down`` read an input of their own."""

    qkv: PackedLinear
    out: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    head_norms: Float[Tensor, "heads head_dim"] | None = field(default=None, kw_only=True)
    """The weights of the norms of queries and keys, where there are any, a row for each head."""


def pack_layer(attn: nn.Module, mlp: nn.Module) -> PackedLayer:
    """Pack ``attn.{q,k,v}_proj`` and ``mlp.{gate,up}_proj``, the names in every layer this package runs."""
    return _pack(PackedLinear, attn, mlp)


def reorder_layer(attn: nn.Module, mlp: nn.Module, own_inputs: bool = True) -> PackedLayer:
    """As ``pack_layer``, all four reordered; without ``own_inputs`` keys and values are made of something else."""
    return _pack(ReorderedLinear, attn, mlp, own_inputs)


def _pack(kind: type[PackedLinear], attn: nn.Module, mlp: nn.Module, own_inputs: bool = True) -> PackedLayer:
    return PackedLayer(
        qkv=kind((attn.q_proj, attn.k_proj, attn.v_proj) if own_inputs else (attn.q_proj,)),
        out=kind((attn.o_proj,)),
        gate_up=kind((mlp.gate_proj, mlp.up_proj)),
        down=kind((mlp.down_proj,)),
        head_norms=_head_norms(attn) if own_inputs and hasattr(attn, "q_norm") else None,
    )


def _head_norms(attn: nn.Module) -> Float[Tensor, "heads head_dim"]:
    norms = ((attn.q_norm, attn.q_proj), (attn.k_norm, attn.k_proj))
    return torch.cat([norm.weight.detach().expand(each.out_features // attn.head_dim, -1) for norm, each in norms])


def project_qkv(
    attn: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "batch rows dim"], num_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the last ``num_rows`` rows of ``x``, keys and values of all, heads still side by side."""
    last = x[:, x.shape[1] - num_rows :]
    if packed is None:
        return attn.q_proj(last), attn.k_proj(x), attn.v_proj(x)
    if num_rows == x.shape[1]:
        return packed.qkv.split(x)
    return linear(last, attn.q_proj.weight, attn.q_proj.bias), *packed.qkv.split(x, first=1)


def gated_mlp(
    mlp: nn.Module,
    packed: PackedLayer | None,
    x: Float[Tensor, "*rows dim"],
    bias: Float[Tensor, "gate_and_up"] | None = None,
) -> Float[Tensor, "*rows dim"]:
    """``down(act(gate(x)) * up(x))``; a packed layer may have a ``bias`` of the first two."""
    return (mlp.down_proj if packed is None else packed.down)(_gated(mlp, packed, x, bias)).view(x.shape)


def add_gated_mlp(
    mlp: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "*rows dim"], normed: Float[Tensor, "*rows dim"]
) -> Float[Tensor, "*rows dim"]:
    """``x`` and what the MLP makes of ``normed``; nobody reads ``x`` itself afterwards."""
    if packed is None:
        return x + gated_mlp(mlp, packed, normed)
    return packed.down.add_to(x, _gated(mlp, packed, normed))


def _gated(
    mlp: nn.Module, packed: PackedLayer | None, x: Float[Tensor, "*rows dim"], bias: Tensor | None = None
) -> Float[Tensor, "all_rows gated"]:
    rows = x.flatten(0, -2)  # a linear layer without bias is one operator on a matrix, and two on more dimensions
    if packed is None:
        gate, up = mlp.gate_proj(rows), mlp.up_proj(rows)
    else:
        gate, up = packed.gate_up(rows, bias).chunk(2, dim=-1)
    return mlp.act_fn(gate) * up
