"""zstd and lz4 as bags use them, never trusting what a compressed block says of its own size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import lz4.frame

from vla_ros.bags.storage import MAX_BYTES, DamagedFile
from vla_ros.strict import max_unpacked_bytes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZstdError = zstd.ZstdError
COMPRESSED_SUFFIX = ".zstd"
# What a compressed message begins with; the encapsulation header of a plain one never does.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class _Unpacked(zstd.ZstdFile):
    """A file that is compressed as a whole; raises DamagedFile where more comes out of it than a recording makes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._most = max_unpacked_bytes(path.stat().st_size)

    def read(self, size: int = -1) -> bytes:
        data = super().read(min(size, self._most + 1))
        self._check()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        position = super().seek(min(offset, self._most + 1), whence)
        self._check()
        return position

    def _check(self) -> None:
        if self.tell() > self._most:
            raise DamagedFile(f"it unpacks to more than {self._most} bytes; if that is right, unpack it with zstd -d")


def open_file(path: Path) -> BinaryIO:
    """A file of a bag, read from its beginning; one compressed as a whole is undone on the way."""
    return _Unpacked(path) if path.suffix == COMPRESSED_SUFFIX else path.open("rb", buffering=1 << 16)


def decompress(data: bytes | memoryview, kind: str, size: int = MAX_BYTES) -> bytes:
    """At most ``size`` bytes of what was compressed as ``kind``, ``zstd`` or ``lz4``.

    Of a block that is cut off, what there is. Raises DamagedFile where ``data`` is nothing of that kind, or stands for
    more than a recording makes.
    """
    most = min(size, MAX_BYTES, max_unpacked_bytes(len(data)))
    if kind not in ("zstd", "lz4"):
        raise DamagedFile(f"compression '{kind}' is not known; expected zstd or lz4")
    decompressor = zstd.ZstdDecompressor() if kind == "zstd" else lz4.frame.LZ4FrameDecompressor()
    try:
        unpacked = decompressor.decompress(data, max_length=most)
    except (ZstdError, RuntimeError, EOFError) as error:  # lz4 raises RuntimeError
        raise DamagedFile(f"a {kind} block cannot be decompressed ({error})") from error
    if len(unpacked) == most < size and not decompressor.eof:
        raise DamagedFile(f"a {kind} block of {len(data)} bytes unpacks to more than {most}; expected less")
    return unpacked


def plain_message(data: bytes | memoryview, size: int = MAX_BYTES) -> bytes | memoryview:
    """A message as it was recorded, at most ``size`` bytes of it: bags may compress each by itself."""
    return decompress(data, "zstd", size) if data[:4] == _ZSTD_MAGIC else data
