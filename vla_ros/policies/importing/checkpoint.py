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
from vla_ros.strict import check_pickle, check_regular, explained, one_line, quoted

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_QUOTED = 120  # characters of what a library says
MAX_TIED = 4  # how often the bytes of a file may be used by its weights
MAX_PICKLE_BYTES = 4 << 20  # a weight takes about a hundred
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
    with explained(f"{path}: damaged (", OSError, ValueError, zipfile.BadZipFile, after="); copy or download it again"):
        _check_archive(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        asked = _GLOBAL.search(str(error))
        what = f"asks for {asked[1]}" if asked else "holds other things than tensors"
        fix = "save its state dict alone, or take it from a source you trust"
        raise ValueError(f"{path}: {what}, which could run code; nothing was run: {fix}") from error
    except Exception as error:  # damaged archives fail in many ways
        # Torch's advice to trust the file is not passed on.
        what = type(error).__name__ if "weights_only" in str(error) else one_line(error, MAX_QUOTED)
        raise ValueError(f"{path}: damaged ({what}); copy or download it again") from error
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path}: holds {type(weights).__name__}; expected a state dict, weights by name")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            got = f"'{quoted(name)}'" if isinstance(name, str) else f"a name of type {type(name).__name__}"
            raise ValueError(f"{path}: {got} is {type(value).__name__}; expected a flat state dict of tensors")
        if value.layout is not torch.strided or value.dtype not in DTYPES or value.device.type != "cpu":
            got = f"{value.dtype} ({value.layout}) on {value.device}"
            raise ValueError(f"{path}: weight {quoted(name)} is {got}; expected dense floats of 16 or 32 bits")
    # Views that overlap or repeat one number are as large as they like; a tied weight is there twice.
    if sum(value.nbytes for value in weights.values()) > MAX_TIED * path.stat().st_size:
        raise ValueError(f"{path}: its weights are larger than the file; save their own values, not views of fewer")
    renamed = {rename(name): value.detach() for name, value in weights.items()}
    return Checkpoint(renamed, MappedFile(path, renamed.values()))


def _check_archive(path: Path) -> None:
    """Raises ValueError for what isn't an archive as torch.save writes them: nothing in it packed, no long program."""
    check_regular(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("cut off, or not written by torch.save")
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("compressed archive; expected an uncompressed one, as torch.save writes it")
        for member in (member for member in archive.infolist() if member.filename.endswith(".pkl")):
            if member.file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"its list of weights is larger than {MAX_PICKLE_BYTES} bytes")
            check_pickle(archive.read(member))


def check_finite(checkpoint: Checkpoint) -> None:
    """No NaN and no infinity, found without copying; raises ValueError naming the weight."""
    for name, value in checkpoint.weights.items():
        if value.numel() == 0:
            continue
        low, high = torch.aminmax(value)  # both NaN where any value is
        checkpoint.memory.was_read(value.nbytes)
        if not math.isfinite(low.item()) or not math.isfinite(high.item()):
            raise ValueError(f"weight {name} has values that are not finite; take a checkpoint from before that")
