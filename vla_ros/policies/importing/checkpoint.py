"""``model.pt``: a flat mapping of names to tensors, mapped into memory and checked before anything uses it."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.policies.importing.mapped import MappedFile
from vla_ros.strict import one_line

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_QUOTED = 120  # characters of what a library says
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # what torch says a pickle asked for


@dataclass(frozen=True)
class Checkpoint:
    """Weights under the names they have here; their ``memory`` is the file's own."""

    weights: dict[str, Tensor]
    memory: MappedFile


def open_checkpoint(path: Path, rename: Callable[[str], str]) -> Checkpoint:
    """Map a checkpoint; ``rename`` gives the name that a weight has here.

    Raises ValueError for a file that is truncated, not a checkpoint, or not a flat mapping of names to tensors, and for
    a pickle that would run code, of which nothing is run.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: cut off, or not written by torch.save; copy or download it again")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        asked = _GLOBAL.search(str(error))
        what = f"asks for {asked[1]}" if asked else "holds other things than tensors"
        fix = "save its state dict alone, or take it from a source you trust"
        raise ValueError(f"{path}: {what}, which could run code; nothing was run: {fix}") from error
    except Exception as error:  # damaged archives fail in many ways
        raise ValueError(f"{path}: damaged ({one_line(error, MAX_QUOTED)}); copy or download it again") from error
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path}: holds {type(weights).__name__}; expected a state dict, weights by name")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: '{name}' is {type(value).__name__}; expected a flat state dict of tensors")
        if value.layout is not torch.strided or value.dtype not in DTYPES or value.device.type != "cpu":
            got = f"{value.dtype} ({value.layout}) on {value.device}"
            raise ValueError(f"{path}: weight {name} is {got}; expected dense floats of 16 or 32 bits")
    renamed = {rename(name): value.detach() for name, value in weights.items()}
    return Checkpoint(renamed, MappedFile(path, renamed.values()))


def check_finite(checkpoint: Checkpoint) -> None:
    """No NaN and no infinity, found without copying; raises ValueError naming the weight."""
    for name, value in checkpoint.weights.items():
        if value.numel() == 0:
            continue
        low, high = torch.aminmax(value)  # both NaN where any value is
        checkpoint.memory.was_read(value.nbytes)
        if not math.isfinite(low.item()) or not math.isfinite(high.item()):
            raise ValueError(f"weight {name} has values that are not finite; take a checkpoint from before that")
