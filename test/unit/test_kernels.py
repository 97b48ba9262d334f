"""What a computation is on CUDA, counted on a CPU: kernels, and the copies that nobody asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from vla_ros.audit.kernels import KernelCounter, Kernels  # noqa: E402


def counted(run: Callable[[], object]) -> Kernels:
    with torch.no_grad(), KernelCounter() as counter:
        run()
    return counter.kernels


def half(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bfloat16)


def test_views_and_empty_tensors_are_no_kernels() -> None:
    x = half(2, 3, 4)
    assert counted(lambda: torch.empty_like(x).transpose(1, 2)[:, :3].unflatten(1, (3, 1))).total == 0


def test_a_norm_of_what_does_not_lie_side_by_side_is_a_copy_more() -> None:
    projected, weight = half(5, 12, 8), half(8)
    whole = counted(lambda: F.layer_norm(projected, (8,)))
    strided = counted(lambda: F.layer_norm(projected[:, :4], (8,)))
    assert (whole.total, whole.num_hidden) == (1, 0)
    assert (strided.total, strided.num_hidden) == (2, 1)
    assert counted(lambda: F.rms_norm(projected, (8,), weight)).total == 1
    assert counted(lambda: F.rms_norm(projected[:, :4], (8,), weight)).total == 2


def test_a_product_copies_what_cublas_cannot_read_and_what_it_adds_to() -> None:
    x, weight, bias = half(5, 8), half(16, 8), half(16)
    assert counted(lambda: F.linear(x[None], weight, bias)).total == 1
    assert counted(lambda: x.addmm(half(5, 3), half(3, 8))).num_hidden == 1
    assert counted(lambda: x.addmm_(half(5, 3), half(3, 8))).num_hidden == 0
    assert counted(lambda: half(4, 4).expand(4, 4)[::2, ::2] @ half(2, 3)).num_hidden == 1


@pytest.mark.parametrize(("rows", "expected"), [(11, 1), (600, 0)])
def test_few_rows_of_long_sums_may_be_two_kernels(rows: int, expected: int) -> None:
    assert counted(lambda: half(rows, 4096) @ half(4096, 1024)).num_long_sums == expected
    assert counted(lambda: half(rows, 1024) @ half(1024, 4096)).num_long_sums == 0


def test_attention_is_one_kernel_where_a_backend_takes_it() -> None:
    queries, shared = half(1, 4, 6, 16), half(1, 2, 6, 16)
    bias = half(1, 1, 6, 16)[..., :6]

    def attend(keys: Tensor, **how: object) -> int:
        return counted(lambda: F.scaled_dot_product_attention(queries, keys, keys, **how)).total

    assert attend(queries) == 1
    assert attend(shared, enable_gqa=True) == 1
    assert attend(queries, attn_mask=bias) == 1
    assert attend(queries, attn_mask=bias.contiguous()) == 3  # padded by torch, at each call
    assert attend(queries, attn_mask=bias > 0) > 3
    assert attend(shared, attn_mask=bias, enable_gqa=True) > 5  # products and a softmax
