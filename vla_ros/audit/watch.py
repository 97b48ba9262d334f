"""Watches what makes the host wait for the device and what moves between them, each with the line that asked for it.

An operator waits if its result's value or shape comes from a tensor's values: ``item``, ``nonzero``, a boolean index.
A tensor made from Python data is recorded too: on its way to a device it is a copy, and a captured graph would freeze
it. What a kernel fills by itself (``full``, ``arange``) is neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAIT, COPY_IN, COPY_OUT, PYTHON_DATA = "wait", "copy in", "copy out", "python data"

_aten = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.to, _aten.copy_, _aten.copy}
_READS_SHAPE_ONLY = {
    *(_aten.zeros_like, _aten.ones_like, _aten.empty_like, _aten.full_like, _aten.rand_like, _aten.randn_like),
    *(_aten.new_empty, _aten.new_zeros, _aten.new_ones, _aten.new_full),
}
_INDEXING = {_aten.index, _aten._unsafe_index, _aten.index_put, _aten.index_put_}
_FROM_PYTHON = {_aten.lift_fresh, _aten.lift_fresh_copy}
# These read a host tensor's memory past the dispatcher.
_READS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.__array__: "__array__"}
_NOT_THE_CALLER = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen ")


@dataclass(frozen=True)
class DeviceEvent:
    """One operator that waits or moves data: ``kind`` is one of this module's; ``file`` is relative to its package."""

    kind: str
    operator: str
    file: str
    line: int


class UnknownValue(Exception):
    """The value of a tensor without memory was asked for: what follows can't be run."""


@contextmanager
def watched(host_stands_in: bool = False) -> Iterator[list[DeviceEvent]]:
    """Inside its ``with``, the list grows by one for each operator that waits or moves data.

    ``host_stands_in``: there is no device, and reading a tensor on the host counts as waiting for one.
    """
    events: list[DeviceEvent] = []
    with _Operators(events, host_stands_in), _Reads(events, host_stands_in):
        yield events


def kind_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], host_stands_in: bool = False) -> str | None:
    """What a call of the operator ``func`` is, if it waits or moves data. Of tensors only device and type are read."""
    leaves = tree_leaves((tuple(args), dict(kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    packet = getattr(func, "overloadpacket", None)
    on_device = host_stands_in or any(is_on_device(tensor) for tensor in tensors)
    if on_device and _depends_on_values(func, packet, args):
        return WAIT
    if packet in _FROM_PYTHON:
        return PYTHON_DATA
    if packet in _COPIES:
        return _direction([leaf for leaf in leaves if isinstance(leaf, torch.device)], tensors)
    if packet in _READS_SHAPE_ONLY:
        return None
    return _direction([], [tensor for tensor in tensors if tensor.dim() > 0])  # a 0-dim one becomes a kernel's argument


def is_on_device(tensor: Tensor) -> bool:
    """Whether its values are out of the host's reach; a copy of a fake tensor to the host has none either."""
    return tensor.device.type != "cpu" or isinstance(tensor, FakeTensor)


def is_caller(path: str) -> bool:
    """Whether a line of this file can be what asked for an operator: torch's own are not, nor the audit's."""
    return not path.startswith(_NOT_THE_CALLER)


def shown(path: str) -> str:
    """``path`` relative to the folder that its package was imported from."""
    for root in sorted(filter(None, sys.path), key=len, reverse=True):
        if path.startswith(f"{root}/"):
            return path[len(root) + 1 :]
    return path


def caller() -> tuple[str, int]:
    """File and line of the innermost frame that is neither torch's nor the audit's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_caller(frame.f_code.co_filename):
        frame = frame.f_back
    return (shown(frame.f_code.co_filename), frame.f_lineno) if frame is not None else ("unknown", 0)


def _depends_on_values(func: Any, packet: Any, args: Sequence[Any]) -> bool:
    if packet in _INDEXING:
        indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        return any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(getattr(func, "tags", ())))


def _direction(targets: list[torch.device], tensors: list[Tensor]) -> str | None:
    """Of a copy to the first of ``targets``, else into the first tensor; None where all are on one device."""
    types = [target.type for target in targets] + [tensor.device.type for tensor in tensors]
    if len(set(types)) < 2:
        return None
    return COPY_OUT if types[0] == "cpu" else COPY_IN


class _Operators(TorchDispatchMode):
    def __init__(self, events: list[DeviceEvent], host_stands_in: bool) -> None:
        super().__init__()
        self._events, self._host_stands_in = events, host_stands_in

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.prim.device.default:
            with self:  # inference mode hands composed operators over whole, and what waits may be inside
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        kind = kind_of(func, args, kwargs, self._host_stands_in)
        if kind is not None:
            self._events.append(DeviceEvent(kind, str(func), *caller()))
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise UnknownValue(str(func)) from error


class _Reads(TorchFunctionMode):
    def __init__(self, events: list[DeviceEvent], host_stands_in: bool) -> None:
        super().__init__()
        self._events, self._host_stands_in = events, host_stands_in

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _READS.get(func)
        if name is not None and (self._host_stands_in or is_on_device(args[0])):
            self._events.append(DeviceEvent(WAIT, name, *caller()))
            if isinstance(args[0], FakeTensor):
                raise UnknownValue(name)
        return func(*args, **kwargs or {})
