"""The exported graph of a computation: all of its operators as nodes, whatever decided on the way which ones run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.fx.traceback import annotate, preserve_node_meta
from torch.overrides import TorchFunctionMode

from vla_ros.audit.watch import WAIT, DeviceEvent, caller, kind_of

CALLER = "audit_caller"
NO_GRAPH = "not exportable"


def graph_events(run: Callable[[dict[str, Tensor]], Tensor], tensors: dict[str, Tensor]) -> tuple[DeviceEvent, ...]:
    """What waits or moves data in ``run(tensors)``, from a non-strict ``torch.export`` of it.

    Where a tensor's value decides which operators run there is no graph: that is one event, at the line that asked.
    """
    marks = _MarkCallers()
    try:
        # A refusal would print the whole graph.
        with torch.no_grad(), preserve_node_meta(), redirect_stderr(StringIO()):
            exported = torch.export.export(_Marked(run, marks), (tensors,), strict=False)
    except Exception as error:  # of many kinds, by what asked for the value
        return (DeviceEvent(WAIT, f"{NO_GRAPH}: {type(error).__name__}", *marks.last_caller),)
    events = []
    for module in exported.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            kind = _kind(node)
            if kind is not None:
                where = node.meta.get("custom", {}).get(CALLER, ("unknown", 0))
                events.append(DeviceEvent(kind, str(node.target), *where))
    return tuple(events)


class _Marked(nn.Module):
    """``run`` as a module whose graph says of every node which line it comes from."""

    def __init__(self, run: Callable[[dict[str, Tensor]], Tensor], marks: _MarkCallers) -> None:
        super().__init__()
        self._run, self._marks = run, marks

    def forward(self, tensors: dict[str, Tensor]) -> Tensor:
        with self._marks:
            return self._run(tensors)


class _MarkCallers(TorchFunctionMode):
    last_caller = ("unknown", 0)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last_caller = caller()
        with annotate({CALLER: self.last_caller}):
            return func(*args, **kwargs or {})


def _kind(node: Node) -> str | None:
    if node.op != "call_function":
        return None
    if node.meta.get("unbacked_bindings"):  # a number that is known only from a tensor's values
        return WAIT
    args, kwargs = map_arg((node.args, node.kwargs), lambda arg: arg.meta.get("val"))
    return kind_of(node.target, args, kwargs)
