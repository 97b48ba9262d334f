"""A mapped file whose pages are given back after use: what was read of a checkpoint need not stay in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

KEPT_BYTES = 32 << 20


class MappedFile:
    """The memory of tensors that were mapped from a file and are never written to.

    Reading a page that was given back reads the file again (from the page cache, as a rule). Where the system doesn't
    say what is mapped (anything but Linux), nothing is given back and nothing else changes.
    """

    def __init__(self, path: Path, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)  # held, so that these addresses stay the file's
        self._ranges = _ranges_of(path)
        self._num_read = 0

    def was_read(self, num_bytes: int) -> None:
        """So many bytes were used just now and may go; they do as soon as it is worth a call to the system."""
        self._num_read += num_bytes
        if self._num_read >= KEPT_BYTES:
            self._num_read = 0
            for start, length in self._ranges:
                madvise = ctypes.CDLL(None).madvise
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _ranges_of(path: Path) -> list[tuple[int, int]]:
    """Start and length of every mapping of ``path`` in this process."""
    ranges = []
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        addresses, *_, name = line.split(maxsplit=5)
        if name == os.path.realpath(path):
            start, end = (int(address, 16) for address in addresses.split("-"))
            ranges.append((start, end - start))
    return ranges
