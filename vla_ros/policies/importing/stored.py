"""A ``model.safetensors`` of another program: mapped into memory, its names, shapes and types checked before use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vla_ros.policies import fill
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.importing.checkpoint import DTYPES, Checkpoint, check_finite
from vla_ros.policies.importing.mapped import MappedFile
from vla_ros.strict import check_safetensors, explained, quoted


def open_stored(path: Path, rename: Callable[[str], str | None]) -> Checkpoint:
    """Map the tensors that ``rename`` has a name for, under that name; None is for what nobody reads.

    Raises ValueError for a file that is damaged, two tensors of one name, and numbers that aren't floats of 16 or 32
    bits.
    """
    names: dict[str, str] = {}
    with explained(f"{path}: damaged (", SafetensorError, OSError, ValueError, after="); copy or download it again"):
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            for stored in file.offset_keys():
                name = rename(stored)
                if name is not None and names.setdefault(name, stored) != stored:
                    raise ValueError(f"{quoted(names[name])} and {quoted(stored)} are one weight")
            weights = {name: file.get_tensor(stored) for name, stored in names.items()}
    for name, value in weights.items():
        if value.dtype not in DTYPES:
            raise ValueError(f"{path}: {quoted(names[name])} is {value.dtype}; expected floats of 16 or 32 bits")
    return Checkpoint(weights, MappedFile(path, weights.values()))


def check_stored(path: Path, checkpoint: Checkpoint) -> None:
    """Raises ValueError where a weight isn't finite."""
    with explained(f"{path}: "):
        check_finite(checkpoint)


def fill_stored(config: PolicyConfig, path: Path, stored: Checkpoint, what: str) -> BasePolicy:
    """The policy of ``config`` over the mapped weights of ``path``. Raises ValueError, before one is read, for weights
    that are missing, too many or of another shape than a whole ``what`` has, and for values that are not finite."""
    policy = fill.build_on_meta(config, str(path))
    with explained(f"{path}: "):
        fill.check_shapes({name: value.shape for name, value in stored.weights.items()}, policy, f"give a whole {what}")
    check_stored(path, stored)
    fill.fill_policy(policy, stored.weights.__getitem__)
    return policy.eval()
