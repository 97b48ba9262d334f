"""What the storage formats of a bag have in common: channels, messages, contents, compression and damage."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame

from vla_ros import strict

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZstdError = zstd.ZstdError
COMPRESSED_SUFFIX = ".zstd"
# What a compressed message begins with; the encapsulation header of a plain one never does.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# No message, and no chunk of messages, is larger: what says so is damaged, and would take all memory.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Channel:
    """A topic as one file of a bag describes it.

    ``definition`` is the message type's, written as ``definition_format`` says (``ros2msg`` or ``ros2idl``); both are
    empty where the file has none.
    """

    topic: str
    msgtype: str
    serialization: str
    definition_format: str
    definition: str


def full_topic(name: str) -> str:
    """A topic with the leading slash that some writers leave out."""
    return name if name.startswith("/") else f"/{name}"


def full_msgtype(name: str) -> str:
    """A message type with the ``/msg/`` that some writers leave out, as ROS 1 did."""
    package, _, message = name.partition("/")
    return f"{package}/msg/{message}" if package and message and "/" not in message else name


class RawMessage(NamedTuple):
    """One serialized message: ``stamp_ns`` is when it was recorded, in ROS time.

    ``data`` may be a view of the whole chunk the message came in: whoever keeps it keeps that.
    """

    channel: Channel
    stamp_ns: int
    data: bytes | memoryview

    @property
    def topic(self) -> str:
        return self.channel.topic

    @property
    def msgtype(self) -> str:
        return self.channel.msgtype


@dataclass(frozen=True)
class BagTopic:
    """A topic, and how many messages of it there are."""

    name: str
    msgtype: str
    num_messages: int


@dataclass(frozen=True)
class Contents:
    """What a file or a whole bag says it holds, before it is read: its topics, and the times of its first and its last
    message, in ROS time (None without messages)."""

    topics: tuple[BagTopic, ...]
    start_ns: int | None
    end_ns: int | None


class DamagedFile(Exception):
    """From here on a file cannot be read; everything before has been given out. The text says what is wrong."""


def one_line(error: Exception) -> str:
    """What an error says, short enough to quote."""
    return strict.one_line(error, 200) or type(error).__name__


def open_file(path: Path) -> BinaryIO:
    """A file of a bag, read from its beginning; one compressed as a whole is undone on the way."""
    return zstd.open(path, "rb") if path.suffix == COMPRESSED_SUFFIX else path.open("rb", buffering=1 << 16)


def decompress(data: bytes | memoryview, kind: str, size: int = MAX_BYTES) -> bytes:
    """At most ``size`` bytes of what was compressed as ``kind``, ``zstd`` or ``lz4``, whatever it says of its own size.

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
