"""Weights read from a safetensors file into memory of their own, one after the other, and what their file's digest is.

The library maps the file instead: what is copied over it later would be what runs, and where it gets shorter the
process is killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_ros.strict import explained

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_HEADER_BYTES = 100 << 20
NUM_LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredTensor:
    """Where the bytes of one tensor end, from the file's first tensor on, and what they are."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    end: int


def read_weights(
    path: Path, check: Callable[[Mapping[str, tuple[int, ...]]], None], take: Callable[[str, Tensor], None]
) -> str:
    """Give every tensor of a file to ``take``, in its own new memory on the CPU; returns the file's SHA-256.

    ``check`` sees all shapes by name before the first is read, and may refuse them. Raises ValueError for that and for
    a file that is damaged.
    """
    kinds = (OSError, ValueError, KeyError, TypeError, RecursionError)
    damaged = partial(explained, f"{path.name}: damaged (", *kinds, after="); restore it")
    with damaged():
        file = path.open("rb")
    with file:
        with damaged():
            start, tensors = _read_header(file)
        with explained(f"{path.name}: "):
            check({tensor.name: tensor.shape for tensor in tensors})
        digest = hashlib.sha256(start)
        for tensor in tensors:
            with damaged():
                value = torch.empty(tensor.shape, dtype=tensor.dtype)
                memory = memoryview(value.flatten().view(torch.uint8).numpy())
                if file.readinto(memory) != value.nbytes:
                    raise ValueError(f"it ends in {tensor.name}")
            digest.update(memory)
            take(tensor.name, value)
    return digest.hexdigest()


def _read_header(file: BufferedReader) -> tuple[bytes, list[StoredTensor]]:
    """The bytes before the first tensor, and the tensors."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(NUM_LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if not 0 < length <= min(size - len(start), MAX_HEADER_BYTES):
        raise ValueError(f"it has {size} bytes and says that {length} of them are its header")
    header = file.read(length)
    tensors = _parse(json.loads(header))
    end = len(start) + length + (tensors[-1].end if tensors else 0)
    if end != size:
        raise ValueError(f"it has {size} bytes, its header describes {end}")
    return start + header, tensors


def _parse(header: Any) -> list[StoredTensor]:
    """The tensors in the order in which they lie, without gaps."""
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    tensors, end = [], 0
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        dtype, shape = DTYPES.get(entry["dtype"]), tuple(entry["shape"])
        if dtype is None or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"{name} is {entry['dtype']} {entry['shape']}, expected {', '.join(DTYPES)}")
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        if entry["data_offsets"] != [begin, end]:
            raise ValueError(f"{name} lies at {entry['data_offsets']}, expected {[begin, end]}")
        tensors.append(StoredTensor(name, dtype, shape, end))
    return tensors
