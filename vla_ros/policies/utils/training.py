"""What training does to a policy's layers: memory for time, and weights spread over processes. Inference needs none.

The policy only names its layers (``BasePolicy.layers``); where a module of another library has no method of its own
through which it is run, it gets one here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from vla_ros.policies.base import BasePolicy, Layer

OWN_METHOD = "run_by_owner"
ENTRIES = ("compute_loss", "sample_batch", "sample_actions", "encode_prefix")  # of a policy, as far as it has them

Run = Callable[..., Any]


def with_own_method(layer: Layer) -> Layer:
    """The layer with a method of its own, which its owner's calls from now on."""
    if layer.owner is None:
        return layer
    run = partial(getattr(type(layer.owner), layer.method), layer.owner, layer.module)
    setattr(layer.module, OWN_METHOD, run)
    setattr(layer.owner, layer.method, _run_by_owner)
    return Layer(layer.module, OWN_METHOD)


def _run_by_owner(module: nn.Module, *args: Any) -> Any:
    return getattr(module, OWN_METHOD)(*args)


def wrap_method(layer: Layer, wrap: Callable[[Run], Run]) -> None:
    """Run the layer, which has a method of its own, by what ``wrap`` makes of that."""
    setattr(layer.module, layer.method, wrap(getattr(layer.module, layer.method)))


def checkpointed(run: Run) -> Run:
    """Keep what goes into ``run`` instead of what lies in it, and run it once more where its gradient is computed."""

    @wraps(run)
    def run_again(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return run(*args)
        return checkpoint(run, *args, use_reentrant=False)

    return run_again


def shard(policy: BasePolicy, layers: Sequence[Layer], mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Give each process of ``mesh`` a part of each weight: it gathers a layer's as the layer runs, and the next one's
    in the meantime. With two dimensions weights are spread along the second and the same along the first.

    ``layers`` have methods of their own. Gradients are summed, not averaged: the loss is divided by what all processes
    have together. ``dtype`` is the one to compute in; it leaves alone what goes into a layer, rotary angles among it.
    """
    # Keys and values are views of what a layer computed, and nothing writes into them.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(.*\) returned a view tensor", UserWarning)
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*(layer.module for layer in layers), policy):
        fully_shard(module, mesh=mesh, mp_policy=precision)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # or gloo, which can't scale, would average all the same
    for before, after in pairwise(layer.module for layer in layers):
        before.set_modules_to_forward_prefetch([after])
        after.set_modules_to_backward_prefetch([before])
    for layer in layers:
        if layer.method != "forward":  # which is hooked as it is
            register_fsdp_forward_method(layer.module, layer.method)
    _register_entries(policy, [name for name in ENTRIES if hasattr(policy, name)])


def _register_entries(policy: BasePolicy, names: Sequence[str]) -> None:
    """Begin and end a pass with the outermost of the methods ``names`` alone: they call each other."""
    is_inside = False

    def outermost(plain: Run, hooked: Run) -> Run:
        @wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_inside
            if is_inside:
                return plain(*args, **kwargs)
            is_inside = True
            try:
                return hooked(*args, **kwargs)
            finally:
                is_inside = False

        return call

    for name in names:
        plain = getattr(policy, name)
        register_fsdp_forward_method(policy, name)
        setattr(policy, name, outermost(plain, getattr(policy, name)))
