"""Normalisation statistics of a release: an ``.npz``, read without running what a pickle in it may ask for. No torch.

Entries are flat (``state/mean_``, ``state.mean_``) or, as releases have them, pickled mappings of arrays.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vla_ros.strict import check_pickle, check_regular, explained, one_line
from vla_ros.transforms.normalize import FieldStats

# The names of each key in releases, and of each statistic.
KEYS = {
    "state": ("state", "observation.state"),
    "action": ("action", "actions", "action_chunk.actions"),
}
FIELDS = {"mean": "mean_", "std": "std_", "q01": "q01", "q99": "q99"}
MAX_BYTES, MAX_ENTRIES = 64 << 20, 1000
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


def read_released_stats(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, FieldStats]:
    """The statistics of each key of ``shapes`` (``state``, ``action``), whose values are their [horizon, dim].

    A longer horizon is cut. Raises ValueError for a damaged file, a pickle with anything but numpy arrays in it, a
    missing key, another shape, values that are not finite and quantiles that are not in order.
    """
    try:
        entries = _read_entries(path)
    except (OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError) as error:
        give = "give an .npz of numpy arrays"
        raise ValueError(f"{path}: not readable as statistics ({one_line(error)}); {give}") from error
    except Exception as error:  # a pickle that doesn't fit together fails in any of many ways
        raise ValueError(f"{path}: damaged ({one_line(repr(error))}); restore it") from error
    with explained(f"{path}: "):
        return {key: _field(key, _components(key, entries), shape) for key, shape in shapes.items()}


def _components(key: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    for name in KEYS[key]:
        group = entries.get(name)
        if isinstance(group, Mapping):
            return {field: group.get(released) for field, released in FIELDS.items()}
        for separator in ("/", "."):
            flat = {field: entries.get(f"{name}{separator}{released}") for field, released in FIELDS.items()}
            if any(value is not None for value in flat.values()):
                return flat
    expected = " or ".join(KEYS[key])
    raise ValueError(f"has no statistics of the {key} among {', '.join(entries)}; expected {expected}")


def _field(key: str, components: Mapping[str, Any], shape: tuple[int, int]) -> FieldStats:
    arrays = {}
    for field, value in components.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise ValueError(f"{key}.{FIELDS[field]} is missing or not an array of numbers")
        if value.ndim != 2 or value.shape[0] < shape[0] or value.shape[1] != shape[1]:
            got = f"{key}.{FIELDS[field]} has shape {value.shape}"
            raise ValueError(f"{got}; the policy needs [horizon, dim] = {shape}")
        arrays[field] = value[: shape[0]].astype(np.float32)
        if not np.isfinite(arrays[field]).all():
            raise ValueError(f"{key}.{FIELDS[field]} has values that are not finite; compute the statistics again")
    if (arrays["q99"] < arrays["q01"]).any() or (arrays["std"] < 0).any():
        raise ValueError(f"{key}: q99 lies below q01, or std below 0; compute the statistics again")
    return FieldStats(**arrays)


def _read_entries(path: Path) -> dict[str, Any]:
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if sum(member.file_size for member in members) > MAX_BYTES or len(members) > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MiB or {MAX_ENTRIES} entries")
        entries = {}
        for member in members:
            with archive.open(member) as file:
                entries[member.filename.removesuffix(".npy")] = _read_array(file)
        return entries


def _read_array(file: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"format {version} of numpy")
    shape, fortran, dtype = read_header[version](file)
    if dtype.hasobject:
        program = file.read()
        check_pickle(program)
        value = _plain(_ArrayUnpickler(io.BytesIO(program)).load(), {})
        return value[0] if shape == () and isinstance(value, list) and len(value) == 1 else value
    data = np.frombuffer(file.read(), dtype)
    return data.reshape(shape, order="F" if fortran else "C")


class _Type:
    """Stands for ``numpy.dtype``: a number of a known size, or an object."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1]).replace("|", "<")

    @property
    def dtype(self) -> np.dtype:
        if self.name not in _NUMBERS or self.order not in "<>=":
            raise pickle.UnpicklingError(f"an array of {self.name}")
        return np.dtype(self.order + self.name)


class _Array:
    """Stands for ``numpy.ndarray`` and the function that makes one; ``value`` is the array or a list of its objects."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if kind.name.startswith("O"):
            self.value = data if isinstance(data, list) else None
            return
        self.value = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _Scalar:
    """Stands for the function that makes a numpy scalar."""

    __slots__ = ("value",)

    def __init__(self, kind: _Type, data: bytes) -> None:
        self.value = np.frombuffer(data, kind.dtype)[0]

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a scalar with a state")


class _ArrayUnpickler(pickle.Unpickler):
    """Knows four names of numpy, and builds our own stand-ins for them: nothing of a file's choice is ever called."""

    _ADMITTED = {("numpy", "dtype"): _Type, ("numpy", "ndarray"): _Array} | {
        (module, name): kind
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, kind in (("_reconstruct", _Array), ("scalar", _Scalar))
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, not a part of an array; nothing was run")
        return self._ADMITTED[module, name]


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Stand-ins replaced by what they hold; ``known`` is what was replaced before, by its id."""
    if id(value) not in known:
        known[id(value)] = _replaced(value, known)
    return known[id(value)]


def _replaced(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, (_Array, _Scalar)):
        return _plain(value.value, known)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, known) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, known) for item in value]
    return value
