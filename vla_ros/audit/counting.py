"""What a forward pass costs, counted and not timed: operators dispatched, weights read, floating-point operations.

Counted below autograd, where composed operators have come apart: what is counted is what a device is given to do.
Under ``inference_mode`` torch shows a linear layer or a norm as one operator, whatever it then does; so counting
runs under ``no_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vla_ros.audit.accelerator import place
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.fill import build_policy
from vla_ros.policies.modules.flow_matching import FlowMatchingPolicy
from vla_ros.transforms.sample import PolicyRequest

_aten = torch.ops.aten
_ATTENTION = "aten._scaled_dot_product"  # by name: there is one for each device and kind of mask
_ONEDNN_LINEAR = "mkldnn._linear_pointwise"  # by name: not in every build of torch


@dataclass(frozen=True)
class Cost:
    """``num_operators`` without views; ``weight_bytes`` of distinct weights that were read, a table's rows and not the
    table where it is looked up; ``flops`` of matrix products and attention, a multiplication and an addition being
    two."""

    num_operators: int
    weight_bytes: int
    flops: int


class CostCounter(TorchDispatchMode):
    """Inside its ``with``, counts what is dispatched; ``weights`` are tensors whose reading counts, views included."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._storages = {_storage(weight) for weight in weights}
        self._read: dict[int, list[tuple[int, int]]] = {}
        self._num_operators = self._looked_up_bytes = self._flops = 0

    @property
    def cost(self) -> Cost:
        read = sum(_union(intervals) for intervals in self._read.values())
        return Cost(self._num_operators, read + self._looked_up_bytes, self._flops)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace == "prim" or func.is_view:  # fake tensors ask about themselves in that namespace
            return result
        self._num_operators += 1
        packet = func.overloadpacket
        if str(packet).startswith(_ATTENTION):  # torch's own count refuses grouped heads in some releases
            queries, keys, values = (tensor.shape for tensor in args[:3])
            self._flops += 2 * queries[:-1].numel() * keys[-2] * (keys[-1] + values[-1])
        elif packet in flop_registry:
            self._flops += flop_registry[packet](*args, **kwargs, out_val=result)
        elif str(packet) == _ONEDNN_LINEAR:
            self._flops += 2 * args[0].numel() * result.shape[-1]
        for tensor in tree_leaves((args, kwargs)):
            if not isinstance(tensor, Tensor):
                continue
            if tensor.is_mkldnn:  # only a packed layer's own copy of its weights is; it has no address to be seen
                self._read[id(tensor)] = [(0, tensor.numel() * tensor.itemsize)]
            elif _storage(tensor) in self._storages:
                if packet is _aten.embedding:
                    self._looked_up_bytes += result.nbytes
                else:
                    self._read.setdefault(_storage(tensor), []).append(_interval(tensor))
        return result


def count(run: Callable[[], object], weights: Iterable[Tensor]) -> Cost:
    """The cost of ``run``, run twice: constants of its shapes are made the first time."""
    with torch.no_grad():
        run()
        with CostCounter(weights) as counter:
            run()
    return counter.cost


def count_step(policy: FlowMatchingPolicy, prefix: Any, state: Tensor, noisy_actions: Tensor) -> Cost:
    """One denoising step of a policy on a prepared time grid; modulations of the grid count as weights.

    ``state`` is [batch, history, state], ``noisy_actions`` [batch, draws, horizon, action].
    """
    with torch.no_grad():
        grid = policy.make_time_grid(2)
        prepared = policy.prepare_suffix(prefix, grid)
        weights = [*policy.parameters(), *(tensor for tensor in tree_leaves(vars(grid)) if isinstance(tensor, Tensor))]
    return count(lambda: policy.predict_suffix(state, prepared, noisy_actions, 1), weights)


def count_published_step(
    config: PolicyConfig, request: PolicyRequest, dtype: torch.dtype = torch.bfloat16
) -> Cost | None:
    """One denoising step of a policy of any size for a request, on tensors without memory as a CPU would run it.

    None for a family whose policies have no steps.
    """
    with torch.device("meta"):
        policy = build_policy(config).eval()
    if not isinstance(policy, FlowMatchingPolicy):
        return None
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        place(policy.to(dtype), "cpu")
        policy.pack_weights()
        inputs = policy.unpack_request(request)
        prefix = policy.encode_prefix(inputs.observation)
        return count_step(policy, prefix, inputs.observation.state, inputs.noise[:, None])


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _interval(tensor: Tensor) -> tuple[int, int]:
    """The bytes from the first to the last element, in the storage."""
    if tensor.numel() == 0:
        return 0, 0
    start = tensor.storage_offset()
    last = start + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start * tensor.itemsize, (last + 1) * tensor.itemsize


def _union(intervals: list[tuple[int, int]]) -> int:
    """How many bytes at least one interval covers."""
    total = end = 0
    for start, stop in sorted(intervals):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total
