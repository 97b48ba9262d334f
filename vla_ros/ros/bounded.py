"""An executor that looks at the size of a message before Python gets it.

rclpy copies a message while it holds the interpreter: 50 MB take 0.2 s, in which neither a stop nor the ticker runs.
What comes for a subscription with a bound is fetched here without the interpreter's lock, and dropped where it is too
large.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.subscription import Subscription

LIBRARIES = ("librcl.so", "librcutils.so")
NUM_INFO_WORDS = 64
"""More than any release's ``rmw_message_info_t``, of which the first three numbers are read."""


class _Allocator(ctypes.Structure):
    _fields_ = (("functions", ctypes.c_void_p * 5),)


class _Bytes(ctypes.Structure):
    """``rcl_serialized_message_t``."""

    _fields_ = (
        ("buffer", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("allocator", _Allocator),
    )


@dataclass(frozen=True)
class Bound:
    """``take`` gets a serialized message of at most ``most`` bytes and the middleware's word on it, ``refuse`` the size
    of a larger one."""

    most: int
    take: Callable[[bytes, Mapping[str, Any]], None]
    refuse: Callable[[int], None]

    def look(self, data: bytes, info: Mapping[str, Any]) -> None:
        """The callback where Python has got the message already."""
        if len(data) > self.most:
            return self.refuse(len(data))
        self.take(data, info)


class BoundedExecutor(SingleThreadedExecutor):
    """Goes by the attribute ``bound`` of a raw subscription, where it has one."""

    def _take_subscription(self, sub: Subscription) -> Any:
        bound, libraries = getattr(sub, "bound", None), _libraries()
        if not isinstance(bound, Bound) or libraries is None:
            return super()._take_subscription(sub)
        rcl, rcutils = libraries
        info, taken = (ctypes.c_int64 * NUM_INFO_WORDS)(), _Bytes()
        taken.allocator = rcutils.rcutils_get_default_allocator()
        try:
            with sub.handle:  # in ctypes' calls other threads run
                pointer = ctypes.c_void_p(sub.handle.pointer)
                if rcl.rcl_take_serialized_message(pointer, ctypes.byref(taken), ctypes.byref(info), None):
                    return None
            size = taken.length
            data = ctypes.string_at(taken.buffer, size) if size <= bound.most else b""
        except rclpy_implementation.InvalidHandle:  # destroyed meanwhile
            return None
        finally:
            rcutils.rcutils_uint8_array_fini(ctypes.byref(taken))

        async def tell() -> None:
            if size > bound.most:
                return bound.refuse(size)
            names = ("source_timestamp", "received_timestamp", "publication_sequence_number")
            bound.take(data, dict(zip(names, info, strict=False)))

        return tell


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL] | None:
    """rcl and rcutils as rclpy has loaded them; None where they can't be found, and rclpy's own way has to do."""
    try:
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        paths = [next(path for path in mapped if path.rpartition("/")[2] == name) for name in LIBRARIES]
        rcl, rcutils = map(ctypes.CDLL, paths)
        rcutils.rcutils_get_default_allocator.restype = _Allocator
        rcl.rcl_take_serialized_message, rcutils.rcutils_uint8_array_fini  # noqa: B018  looked up
    except (OSError, StopIteration, AttributeError):
        return None
    return rcl, rcutils
