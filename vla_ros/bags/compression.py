"""zstd and lz4 as bags use them, never trusting what a compressed block says of its own size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import lz4.frame

from vla_ros.bags.storage import MAX_BYTES, DamagedFile

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZstdError = zstd.ZstdError
COMPRESSED_SUFFIX = ".zstd"
# What a compressed message begins with; the encapsulation header of a plain one never does.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def open_file(path: Path) -> BinaryIO:
    """A file of a bag, read from its beginning; one compressed as a whole is undone on the way."""
    return zstd.open(path, "rb") if path.suffix == COMPRESSED_SUFFIX else path.open("rb", buffering=1 << 16)


def decompress(data: bytes | memoryview, kind: str, size: int = MAX_BYTES) -> bytes:
    """At most ``size`` bytes of what was compressed as ``kind``, ``zstd`` or ``lz4``.

    Of a block that is cut off, what there is. Raises DamagedFile where ``data`` is nothing of that kind.
    """
    if kind not in ("zstd", "lz4"):
        raise DamagedFile(f"compression '{kind}' is not known; expected zstd or lz4")
    decompressor = zstd.ZstdDecompressor() if kind == "zstd" else lz4.frame.LZ4FrameDecompressor()
    try:
        return decompressor.decompress(data, max_length=min(size, MAX_BYTES))
    except (ZstdError, RuntimeError, EOFError) as error:  # lz4 raises RuntimeError
        raise DamagedFile(f"a {kind} block cannot be decompressed ({error})") from error


def plain_message(data: bytes | memoryview) -> bytes | memoryview:
    """A message as it was recorded: bags may compress each by itself."""
    return decompress(data, "zstd") if data[:4] == _ZSTD_MAGIC else data
