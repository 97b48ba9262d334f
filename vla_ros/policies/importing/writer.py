"""A safetensors file written tensor by tensor; the library's own writer reads all of them at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.policies.importing.mapped import MappedFile

TYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
ALIGNMENT = 8  # of the data, in bytes


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], memory: MappedFile) -> None:
    """Write ``tensors`` as https://huggingface.co/docs/safetensors describes; ``memory`` is told what was read."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # each lies at a multiple of its size
    header, end = {}, 0
    for name, value in ordered:
        start, end = end, end + value.nbytes
        header[name] = {"dtype": TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, value in ordered:
            file.write(value.contiguous().flatten().view(torch.uint8).numpy())
            memory.was_read(value.nbytes)
