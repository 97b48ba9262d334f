"""Heads and masks in the form that GPUs take give what the plain forms give."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from vla_ros.policies.modules.layers.heads import ALIGNMENT, additive_mask, aligned, attend_shared, widened  # noqa: E402


def is_aligned(bias: torch.Tensor) -> bool:
    return bias.stride(-1) == 1 and all(stride % ALIGNMENT == 0 for stride in bias.stride()[:-1])


@pytest.mark.parametrize("length", [5, 16, 33])
def test_a_mask_as_numbers_lies_in_aligned_rows(length: int) -> None:
    mask = torch.rand(2, 1, 3, length, generator=torch.Generator().manual_seed(length)) > 0.3
    bias = additive_mask(mask, torch.bfloat16)
    assert bias.dtype == torch.bfloat16 and bias.shape == mask.shape and is_aligned(bias)
    assert torch.equal(bias == 0, mask) and bias[~mask].isinf().all() and (bias[~mask] < 0).all()
    repeated = additive_mask(mask, torch.bfloat16, repeats=2)
    assert is_aligned(repeated) and torch.equal(repeated, bias.repeat_interleave(2, dim=2))


def test_more_columns_are_seen_and_the_rows_stay_aligned() -> None:
    bias = additive_mask(torch.tensor([[True, False, True]]), torch.float32)
    more = widened(bias, 2)
    assert is_aligned(more) and more.tolist() == [[0.0, -torch.inf, 0.0, 0.0, 0.0]]
    assert is_aligned(aligned(torch.ones(4, 3))) and torch.equal(aligned(torch.ones(4, 3)), torch.ones(4, 3))


@pytest.mark.parametrize("num_rows", [7, 3])
def test_shared_heads_are_read_again_and_not_copied(num_rows: int) -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(1, 6, num_rows, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    bias = additive_mask(
        (torch.rand(1, 1, num_rows, 7) > 0.4) | torch.eye(num_rows, 7, dtype=torch.bool), torch.float32
    )
    plain = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, enable_gqa=True)
    got = attend_shared(queries, keys, values, bias)
    torch.testing.assert_close(got, plain.transpose(1, 2).flatten(2))
