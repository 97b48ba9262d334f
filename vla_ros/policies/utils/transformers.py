"""Pieces common to transformer stacks: rotary embedding and RMS norm."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


def constant(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """``make``, called once for the same arguments (a device among them): an inference must not wait for what it gives.

    That may be used in training, too, and is real, whoever asked for it first.
    """
    return lru_cache(maxsize=64)(unset_fake_temporarily()(torch.inference_mode(False)(torch.no_grad()(make))))


class Rotary(NamedTuple):
    """Cosines and signed sines, ready to broadcast over [batch, rows, heads, head_dim] (half-split layout).

    The first half of ``sin`` is negated, so that a rotation is ``x * cos + swap_halves(x) * sin``.
    """

    cos: Float[Tensor, "#batch rows 1 head_dim"]
    sin: Float[Tensor, "#batch rows 1 head_dim"]

    def last(self, num_rows: int) -> Rotary:
        """That of the last ``num_rows`` positions."""
        return Rotary(self.cos[:, -num_rows:], self.sin[:, -num_rows:])

    def like(self, x: Tensor) -> Rotary:
        """That for turning ``x`` in its own type, half as much to read; in float32 where gradients are wanted."""
        if _is_training(x) or self.cos.dtype == x.dtype:
            return self
        return Rotary(self.cos.to(x.dtype), self.sin.to(x.dtype))


def make_rotary(angles: Float[Tensor, "#batch rows half"]) -> Rotary:
    """From angles in rad, float32, one for each pair of channels."""
    cos, sin = angles.cos(), angles.sin()
    return Rotary(torch.cat((cos, cos), -1).unsqueeze(-2), torch.cat((-sin, sin), -1).unsqueeze(-2))


def apply_rotary(
    x: Float[Tensor, "batch rows heads head_dim"], rotary: Rotary
) -> Float[Tensor, "batch rows heads head_dim"]:
    """Rotate channel ``i`` with channel ``i + head_dim / 2``; computed in the type of ``rotary``, returned as ``x``
    came."""
    if _is_training(x):
        return _Rotate.apply(x, rotary.cos, rotary.sin)
    return _rotate(x, rotary.cos, rotary.sin).to(x.dtype)


def swap_halves(x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """The second half of the last dimension, then the first."""
    half = x.shape[-1] // 2
    if torch.compiler.is_compiling():  # then part of the kernel that reads it, which what is put together is not
        return x.unflatten(-1, (2, half)).flip(-2).flatten(-2)
    return torch.cat((x[..., half:], x[..., :half]), dim=-1)


def rms_norm(
    x: Float[Tensor, "*rows dim"], weight: Float[Tensor, "dim"] | None, eps: float
) -> Float[Tensor, "*rows dim"]:
    """``x / sqrt(mean(x²) + eps)``, computed in float32, times ``weight``; returned as ``x`` came."""
    if _is_training(x):
        return _RMSNorm.apply(x, weight, eps)[0]
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def modulated_rms_norm(
    x: Float[Tensor, "*rows dim"],
    scale: Float[Tensor, "*#rows dim"],
    shift: Float[Tensor, "*#rows dim"] | None,
    eps: float,
) -> Float[Tensor, "*rows dim"]:
    """``rms_norm(x) * scale + shift``, returned as ``x`` came; without ``shift`` the ``scale`` is [dim].

    Torch has a kernel for the norm on accelerators, and makes one; else on a CPU it would compose it of six operators.
    """
    if _is_training(x) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return rms_norm(x, scale, eps) if shift is None else torch.addcmul(shift, rms_norm(x, None, eps), scale)
    shift = _number(0.0, x.device) if shift is None else shift
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precision)
    length = torch.hypot(norm, _number((x.shape[-1] * eps) ** 0.5, x.device))
    return torch.addcdiv(shift, x * scale, length, value=x.shape[-1] ** 0.5).to(x.dtype)


@constant
def inverse_frequencies(dim: int, theta: float, device: torch.device) -> Float[Tensor, "half"]:
    """``theta ** (-2i / dim)`` for each pair of channels, float32."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)


@constant
def rotary_angles(length: int, head_dim: int, theta: float, device: torch.device) -> Rotary:
    """Rotary embedding of positions 0 .. length - 1."""
    positions = torch.arange(length, dtype=torch.float32, device=device)
    return make_rotary((positions[:, None] * inverse_frequencies(head_dim, theta, device))[None])


@constant
def _number(value: float, device: torch.device) -> Float[Tensor, ""]:
    return torch.tensor(value).to(device)


# Both functions below spare memory traffic where gradients are wanted; calling one takes 0.1 ms, too much at inference,
# and 1 ms inside torch.func, which guidance uses.


def _is_training(x: Tensor) -> bool:
    if torch.compiler.is_compiling():  # which can't see what torch.func has wrapped, and compiles training only
        return torch.is_grad_enabled()
    return torch.is_grad_enabled() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back: a few passes over memory, where autograd takes ten."""

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return _rotate(_wide(x), cos, sin).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(_wide(grad), cos, -sin).to(grad.dtype), None, None


def _wide(x: Tensor) -> Tensor:
    """At least single precision."""
    return x if x.dtype == torch.float64 else x.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, swap_halves(x), sin)


class _RMSNorm(torch.autograd.Function):
    """Torch composes its own RMS norm out of elementary operations on CPU; this one's backward is short."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        value = _wide(x)
        norm = torch.linalg.vector_norm(value, dim=-1, keepdim=True)
        inverse = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        normed = (value * inverse).to(x.dtype)
        return normed if weight is None else normed * weight, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, float], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        value, grad_out = _wide(x), _wide(grad)
        product = (grad_out * value).flatten(0, -2)
        grad_weight = None
        if weight is None:
            along = product.sum(-1, keepdim=True)
            grad_x = grad_out * inverse
        else:
            scale = _wide(weight)
            grad_weight = (inverse.reshape(1, -1) @ product)[0].to(weight.dtype)
            along = product @ scale[:, None]
            grad_x = (grad_out * scale).mul_(inverse)
        along = along.view(inverse.shape) * (inverse**3 / -x.shape[-1])
        return torch.addcmul(grad_x, value, along).to(grad.dtype), grad_weight, None
