"""How many kernels a computation is on a GPU with CUDA, counted without one, and how many of them only copy.

Torch's operators are counted on the accelerator without memory, after a few were given the form that they have on CUDA:
its RMS norm is one kernel there, attention one by whichever backend takes it, and what isn't laid out as a kernel wants
it is copied first, unseen. What cuBLAS and cuDNN add by themselves depends on the device: ``Kernels.num_long_sums`` of
the products may be two kernels, as may each attention by cuDNN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vla_ros.audit.accelerator import FakeAccelerator, place
from vla_ros.policies.base import batch_of_one
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.fill import build_policy
from vla_ros.policies.modules.flow_matching import FlowMatchingPolicy, advance
from vla_ros.transforms.sample import PolicyRequest

HALF = (torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256  # of the backends for attention that are one kernel
BIAS_ALIGNMENT = 8  # in elements, of the rows of what is added to scores: else torch pads it in each call
LONG_SUM_ROWS, LONG_SUM_RATIO = 64, 4
"""A product of at most so many rows whose sums are so many times as long as a row of its results: cuBLAS has too few of
them for all multiprocessors, and sums in parts."""

_aten = torch.ops.aten
_WITHOUT_KERNEL = {
    *(_aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided, _aten.new_empty_strided),
    *(_aten._unsafe_view, _aten.alias, _aten.detach, _aten.lift_fresh, _aten._reshape_alias, _aten.resize_),
}
_COPIES = {_aten.clone, _aten.copy_, _aten.copy, _aten.contiguous}
_PRODUCTS = {_aten.mm: (0, 1), _aten.addmm: (1, 2), _aten.addmm_: (1, 2), _aten.bmm: (0, 1), _aten.baddbmm: (1, 2)}
_NORMS = {_aten.native_layer_norm, _aten._fused_rms_norm}
_TWICE = {_aten.constant_pad_nd, _aten.masked_fill, _aten.fill, _aten.index_put}  # what they give is filled first


@dataclass(frozen=True)
class Kernels:
    """``names`` says how often each operator runs one; ``num_copies`` are those that only bring numbers into another
    order, ``num_hidden`` those of them that no operator was asked for."""

    names: Counter[str]
    num_copies: int
    num_hidden: int
    num_long_sums: int

    @property
    def total(self) -> int:
        return sum(self.names.values())


class KernelCounter:
    """Inside its ``with``, counts; gradients are off, for composed operators to come apart."""

    def __init__(self) -> None:
        self._names: Counter[str] = Counter()
        self._num_copies = self._num_hidden = self._num_long_sums = 0

    @property
    def kernels(self) -> Kernels:
        return Kernels(Counter(self._names), self._num_copies, self._num_hidden, self._num_long_sums)

    def __enter__(self) -> KernelCounter:
        self._modes = ExitStack()
        self._modes.enter_context(_CudaForms(self))
        self._modes.enter_context(_Operators(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.close()

    def add(self, packet: Any, args: Any) -> None:
        """An operator that runs on CUDA."""
        if packet in _WITHOUT_KERNEL:
            return
        num_hidden = _hidden_copies(packet, args)
        self._names[str(packet).removeprefix("aten.")] += 2 if packet in _TWICE else 1
        if num_hidden:
            self._names["hidden copy"] += num_hidden
        self._num_hidden += num_hidden
        self._num_copies += num_hidden + (packet in _COPIES)
        if packet in _PRODUCTS:
            self._num_long_sums += _is_long_sum(*(args[i] for i in _PRODUCTS[packet]))


class _Operators(TorchDispatchMode):
    def __init__(self, counter: KernelCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "prim" and not func.is_view:  # fake tensors ask about themselves in that namespace
            self._counter.add(func.overloadpacket, args)
        return func(*args, **kwargs or {})


class _CudaForms(TorchFunctionMode):
    """RMS norm and attention as they are on CUDA, where other devices compose them of several operators."""

    def __init__(self, counter: KernelCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.rms_norm, torch.rms_norm):
            self._counter.add(_aten._fused_rms_norm, args)
            return torch.empty(args[0].shape, dtype=args[0].dtype, device=args[0].device)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        is_shared = enable_gqa and queries.shape[1] != keys.shape[1]
        backend = _attention(queries, keys, values, attn_mask, is_shared)
        if backend is None:
            how = {"scale": scale, "enable_gqa": enable_gqa}
            return _aten._scaled_dot_product_attention_math(
                queries, keys, values, attn_mask, dropout_p, is_causal, None, **how
            )[0]
        self._counter.add(backend, ())
        batch, heads, rows, _ = queries.shape  # which lie as both backends write them
        out = torch.empty(batch, rows, heads, values.shape[-1], dtype=queries.dtype, device=queries.device)
        return out.transpose(1, 2)


def count_published_kernels(
    config: PolicyConfig, request: PolicyRequest, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Kernels]:
    """Those of each stage of a policy of any size: ``prefix``, with what is prepared for all steps, and one ``step``;
    ``sample`` where it has no stages. Meant for a process that does nothing else afterwards, see ``FakeAccelerator``.
    """
    with torch.device("meta"):
        policy = build_policy(config).to(dtype).eval()
    with FakeAccelerator() as accelerator, torch.no_grad():
        place(policy, accelerator.device)
        policy.pack_weights()
        inputs = policy.unpack(batch_of_one(request, accelerator.device), request.constants)
        if not isinstance(policy, FlowMatchingPolicy):
            prepared = policy.prepare()
            return {"sample": _second_run(lambda: policy.sample(inputs, prepared))[0]}
        grid = policy.make_time_grid(2)
        prefix, suffix_input = _second_run(
            lambda: policy.prepare_suffix(policy.encode_prefix(inputs.observation), grid)
        )
        state, noise = inputs.observation.state, inputs.noise[:, None]

        def step() -> Tensor:
            return advance(noise, policy.predict_suffix(state, suffix_input, noise, 1), 2)

        return {"prefix": prefix, "step": _second_run(step)[0]}


def _second_run(run: Callable[[], Any]) -> tuple[Kernels, Any]:
    """Of two, because constants are made the first time; and what it gives."""
    run()
    with KernelCounter() as counter:
        result = run()
    return counter.kernels, result


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, is_shared: bool) -> Any:
    """The backend that is one kernel, after what brings a mask into its form; None where torch falls back to products
    and a softmax.

    As torch chooses without cuDNN: flash attention takes no mask, efficient attention no heads that are shared.
    """
    if any(x.dtype not in HALF or x.shape[-1] > MAX_HEAD_DIM or x.stride(-1) != 1 for x in (queries, keys, values)):
        return None
    if mask is None:
        return _aten._scaled_dot_product_flash_attention
    if is_shared:
        return None
    bias = mask
    if bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=queries.dtype).masked_fill(~bias, -torch.inf)
    if any(stride % BIAS_ALIGNMENT for stride in bias.stride()[:-1]):
        F.pad(bias, (0, BIAS_ALIGNMENT - bias.shape[-1] % BIAS_ALIGNMENT))
    return _aten._scaled_dot_product_efficient_attention


def _hidden_copies(packet: Any, args: Any) -> int:
    if packet in _NORMS:
        return int(not args[0].is_contiguous())
    if packet not in _PRODUCTS:
        return 0
    num = sum(not _is_matrix(args[i]) for i in _PRODUCTS[packet])
    return num + (packet in (_aten.addmm, _aten.baddbmm) and args[0].dim() > 1)  # added to in place, in a copy of it


def _is_matrix(x: Tensor) -> bool:
    """Whether the last two dimensions lie as cuBLAS reads them: one of them without gaps, the other in any steps."""
    rows, columns = x.shape[-2:]
    row_step, column_step = x.stride()[-2:]
    return (column_step == 1 and row_step >= columns) or (row_step == 1 and column_step >= rows) or 1 in (rows, columns)


def _is_long_sum(left: Tensor, right: Tensor) -> bool:
    rows, length = left.shape[-2:]
    return rows <= LONG_SUM_ROWS <= right.shape[-1] and length >= LONG_SUM_RATIO * right.shape[-1]
