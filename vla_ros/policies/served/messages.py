"""Dictionaries with arrays as bytes, as openpi's policy servers have them.

msgpack, in which an array is a mapping by byte strings: ``__ndarray__``, its bytes, numpy's name of its type and its
shape; a numpy number is one with ``__npgeneric__``. Nothing in it is executed: types are numbers, never objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from vla_ros.strict import one_line, quoted

ARRAY, NUMBER, DATA, DTYPE, SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
TYPE_NAME = re.compile(r"[<>|=]?[biuf][1248]")
MAX_DIMENSIONS, MAX_ITEMS = 8, 100_000
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError, msgpack.UnpackException)


def pack(message: Mapping[str, Any]) -> bytes:
    """Text, numbers, arrays and mappings of these as bytes."""
    return msgpack.packb(message, default=_pack_array)


def unpack(data: bytes) -> dict[str, Any]:
    """The dictionary in ``data``. Raises ValueError, in one line, for anything else, and for arrays that aren't
    numbers or not as large as they say."""
    try:
        message = msgpack.unpackb(
            data, object_hook=_unpack_array, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS, max_ext_len=0
        )
    except _UNREADABLE as error:
        raise ValueError(f"not msgpack with arrays: {one_line(error, 200) or type(error).__name__}") from error
    if not isinstance(message, dict):
        raise ValueError(f"a {type(message).__name__} by itself; expected a dictionary")
    return message


def _pack_array(value: Any) -> dict[bytes, Any]:
    assert isinstance(value, np.ndarray) and value.dtype.kind in "biuf", f"{type(value)} can't be sent"
    return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}


def _unpack_array(value: dict[Any, Any]) -> Any:
    if ARRAY not in value and NUMBER not in value:
        return value
    name = value[DTYPE]
    if not isinstance(name, str) or not TYPE_NAME.fullmatch(name):
        raise ValueError(f"an array is of type {quoted(repr(name))}; expected whole numbers, floats or truth values")
    kind = np.dtype(name)
    if NUMBER in value:
        return kind.type(value[DATA])
    data, shape = value[DATA], value[SHAPE]
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("an array has no bytes, or no shape of at most 8 dimensions")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of {name} has shape {quoted(repr(shape))} and {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape)
