"""Weights that no process ever holds whole: each reads its own part of a policy directory's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.fill import constant_buffer
from vla_ros.strict import check_safetensors

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_READ_BYTES = 1 << 24  # at once, where the file's type is another


class Stored(NamedTuple):
    """Where a weight lies in a safetensors file, row by row from ``start`` bytes on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> dict[str, Stored]:
    """Every weight of a safetensors file. Raises ValueError for a damaged one."""
    check_safetensors(path)
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(num_bytes))
    header.pop("__metadata__", None)
    return {
        name: Stored(TYPES[entry["dtype"]], tuple(entry["shape"]), 8 + num_bytes + entry["data_offsets"][0])
        for name, entry in header.items()
    }


@torch.no_grad()
def read_shards(policy: BasePolicy, path: Path, device: torch.device) -> None:
    """Give a policy that was built without memory and is sharded its part of each weight of ``path``, on ``device``.
    Constants that no file holds are computed."""
    buffers = [(module, *item) for module in policy.modules() for item in module.named_buffers(recurse=False)]
    policy.to_empty(device=device)
    for module, leaf, buffer in buffers:
        value = constant_buffer(module, leaf, buffer) if buffer.is_meta else buffer
        module.register_buffer(leaf, value.to(device), persistent=False)
    stored = read_header(path)
    with path.open("rb") as file:
        for name, parameter in policy.named_parameters():
            own, first = _own_rows(parameter)
            _read_rows(file, stored[name], first, own)


def _own_rows(parameter: Tensor) -> tuple[Tensor, int]:
    """This process's part, and which row of the whole is its first."""
    if not isinstance(parameter, DTensor):
        return parameter, 0
    (axis,) = (i for i, placement in enumerate(parameter.placements) if placement == Shard(0))
    num_each = -(-parameter.shape[0] // parameter.device_mesh.size(axis))
    return parameter.to_local(), num_each * parameter.device_mesh.get_local_rank(axis)


def _read_rows(file: BinaryIO, stored: Stored, first: int, own: Tensor) -> None:
    row = stored.dtype.itemsize * own[:1].numel()
    file.seek(stored.start + first * row)
    if not own.numel():
        return
    flat = own.view(-1)
    if own.dtype == stored.dtype and own.device.type == "cpu":
        _read_exactly(file, flat)
        return
    for part in flat.split(MAX_READ_BYTES // stored.dtype.itemsize):
        read = torch.empty(len(part), dtype=stored.dtype)
        _read_exactly(file, read)
        part.copy_(read)


def _read_exactly(file: BinaryIO, values: Tensor) -> None:
    wanted = memoryview(values.view(torch.uint8).numpy())
    if file.readinto(wanted) != len(wanted):  # type: ignore[attr-defined]
        raise ValueError(f"{file.name}: damaged (it ends too early); restore it")
