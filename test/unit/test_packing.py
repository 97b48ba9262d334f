"""Weights laid out for inference give what the layers give by themselves."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_helpers import MODES_WITH_PRODUCTS  # noqa: E402

from vla_ros.policies.modules.layers.packing import PackedLinear, ReorderedLinear  # noqa: E402


def make_linears(bias: bool) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(48, out, bias).requires_grad_(False) for out in (32, 16, 64)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [PackedLinear, ReorderedLinear])
@pytest.mark.parametrize("num_rows", [1, 51, 7])
@torch.no_grad()
def test_packed_layers_give_what_each_gives_alone(kind: type[PackedLinear], bias: bool, num_rows: int) -> None:
    linears, x = make_linears(bias), torch.randn(2, num_rows, 48)
    expected = [linear(x) for linear in linears]
    packed = kind(linears)
    for _ in range(2):  # the second run finds the weights reordered
        for got, wanted in zip(packed.split(x), expected, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    for got, wanted in zip(packed.split(x, first=1), expected[1:], strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_activation_of_a_packed_layer_is_gelu(dtype: torch.dtype) -> None:
    linears = [each.to(dtype) for each in make_linears(bias=True)]
    x = torch.randn(7, 48, dtype=dtype)
    expected = torch.cat([nn.functional.gelu(each(x), approximate="tanh") for each in linears], dim=-1)
    torch.testing.assert_close(PackedLinear(linears).gelu(x), expected, atol=1e-6, rtol=0)


def test_a_layer_by_itself_is_packed_without_a_copy() -> None:
    linear = make_linears(bias=True)[0]
    where = linear.weight.data_ptr()
    assert PackedLinear((linear,)).weight.data_ptr() == linear.weight.data_ptr() == where


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [PackedLinear, ReorderedLinear])
@torch.no_grad()
def test_what_is_added_to_the_input_can_be_part_of_the_bias(kind: type[PackedLinear], bias: bool) -> None:
    linears, x, shifts = make_linears(bias), torch.randn(5, 48), torch.randn(3, 48)
    packed = kind(linears)
    for shift, absorbed in zip(shifts, packed.absorb(shifts), strict=True):
        expected = torch.cat([linear(x + shift) for linear in linears], dim=-1)
        torch.testing.assert_close(packed(x, absorbed), expected, atol=1e-5, rtol=0)


def test_a_reordered_layer_serves_another_number_of_rows() -> None:
    linears = make_linears(bias=True)
    packed, x = ReorderedLinear(linears), torch.randn(90, 48)
    with torch.no_grad():
        packed(x[:3])
        torch.testing.assert_close(packed(x), torch.cat([linear(x) for linear in linears], dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [PackedLinear, ReorderedLinear])
def test_a_gradient_passes_through_a_packed_layer(kind: type[PackedLinear]) -> None:
    linears, x = make_linears(bias=True), torch.randn(5, 48, requires_grad=True)
    packed = kind(linears)
    with torch.no_grad():
        packed(x)
    (got,) = torch.autograd.grad(packed(x).sum(), x)
    (expected,) = torch.autograd.grad(torch.cat([linear(x) for linear in linears], dim=-1).sum(), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", [PackedLinear, ReorderedLinear])
@pytest.mark.parametrize("mode", MODES_WITH_PRODUCTS)
def test_a_vector_jacobian_product_passes_through_a_packed_layer(mode, kind: type[PackedLinear]) -> None:
    linears, x, towards = make_linears(bias=True), torch.randn(5, 48), torch.randn(5, 112)
    packed = kind(linears)
    with mode():
        plain = packed(x)  # by oneDNN
        got, vjp = torch.func.vjp(packed, x.clone())
        (product,) = vjp(towards)
    torch.testing.assert_close(got, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(product, towards @ packed.weight, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_reordered_layer_in_half_precision_is_the_packed_one() -> None:
    linears = [linear.bfloat16() for linear in make_linears(bias=True)]
    x = torch.randn(5, 48, dtype=torch.bfloat16)
    torch.testing.assert_close(ReorderedLinear(linears)(x), PackedLinear(linears)(x), atol=0, rtol=0)
