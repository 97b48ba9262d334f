"""What tests of the device side share."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.index.Tensor", "aten.lift_fresh")


class NothingWaits(TorchDispatchMode):
    """Refuses what makes the host wait for a device, or brings Python data to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not str(func).startswith(WAITING), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def _takes_products(mode: Any) -> bool:
    x = torch.ones(2, 3)
    with mode():
        _, vjp = torch.func.vjp(lambda x: torch.nn.functional.linear(x, torch.ones(4, 3)), x)
        (product,) = vjp(torch.ones(2, 4))
    return bool((product == 4).all())


MODES_WITH_PRODUCTS = [mode for mode in (torch.no_grad, torch.inference_mode) if _takes_products(mode)]
"""Torch 2.11 gives zeros inside ``inference_mode``: a guided inference runs without it."""
