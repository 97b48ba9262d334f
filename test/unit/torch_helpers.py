"""What tests of the device side share."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.index.Tensor", "aten.lift_fresh")


class NothingWaits(TorchDispatchMode):
    """Refuses what makes the host wait for a device, or brings Python data to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not str(func).startswith(WAITING), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))
