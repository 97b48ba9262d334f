"""An accelerator that only pretends: its tensors have shapes and no memory, so any size fits and every move is seen.

Tensors of the host stay real, as beside a true device: staging buffers hold numbers, constants are computed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

BACKEND = "audited"


class FakeAccelerator(TorchDispatchMode):
    """Inside its ``with``, operators on ``device`` run on fake tensors; all others as ever.

    The device's name stays registered for the rest of the process, and constants that policies keep for each device
    stay fake for this one: meant for a process that does nothing else afterwards.
    """

    def __init__(self, with_symbols: bool = False) -> None:
        """``with_symbols``: values that are asked for become symbols, and a run goes on where those will do."""
        super().__init__()
        self.device = _register()
        shape_env = ShapeEnv() if with_symbols else None
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=shape_env, static_shapes=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(self._is_there(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        fake_args, fake_kwargs = tree_map(self._to_fake, (args, kwargs))
        with self._fake_mode:
            result = func(*fake_args, **fake_kwargs)
        wrote_to_host = func._schema.is_mutable and isinstance(result, Tensor) and not isinstance(args[0], FakeTensor)
        return args[0] if wrote_to_host else result

    def _is_there(self, leaf: Any) -> bool:
        return isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == self.device.type)

    def _to_fake(self, leaf: Any) -> Any:
        is_real = isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)
        return self._fake_mode.from_tensor(leaf) if is_real else leaf


def place(module: nn.Module, device: torch.device | str) -> None:
    """Bring a module built on ``meta`` to a device, in the mode that is on; tied weights stay tied."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    new = torch.empty_like(tensor.detach(), device=device)
                    made[id(tensor)] = nn.Parameter(new, False) if isinstance(tensor, nn.Parameter) else new
                tensors[name] = None if tensor is None else made[id(tensor)]


@cache
def _register() -> torch.device:
    _setup_privateuseone_for_python_backend(BACKEND)
    # Else torch.tensor(data, device=...) would copy to a device without memory before any mode sees it.
    torch._C._set_only_lift_cpu_tensors(True)
    return torch.device(BACKEND, 0)
