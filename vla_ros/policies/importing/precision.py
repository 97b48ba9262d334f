"""Arithmetic in float32 over weights that stay in 16 bits: each is widened where it is read, and forgotten again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from vla_ros.policies.importing.mapped import MappedFile

HALVES = (torch.bfloat16, torch.float16)


@contextmanager
def float32_arithmetic(memory: MappedFile) -> Iterator[None]:
    """Inside it a policy infers what it would after ``.float()``, and takes up one widened weight more than before.

    ``memory`` is told what was read. Not fast: for one inference on a machine that could not hold the wide weights.
    """
    with torch.inference_mode(), _Widening(memory):  # otherwise some operators compare types before a mode sees them
        yield


class _Widening(TorchDispatchMode):
    """Runs every operator on widened tensors."""

    def __init__(self, memory: MappedFile) -> None:
        super().__init__()
        self._memory = memory

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.embedding.default:  # the rows, not the table
            return self._widened(func(*args, **(kwargs or {})))
        change = _wide_type if func.is_view else self._widened  # a view moves nothing: no need to widen for it yet
        return func(*tree_map(change, args), **tree_map(change, dict(kwargs or {})))

    def _widened(self, value: Any) -> Any:
        """A tensor of 16 bits in 32; anything else as ``_wide_type`` has it."""
        if not isinstance(value, Tensor) or value.dtype not in HALVES:
            return _wide_type(value)
        wide = value.float()
        self._memory.was_read(value.nbytes)
        return wide


def _wide_type(value: Any) -> Any:
    """Where a type of 16 bits is asked for, the wide one."""
    return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value
