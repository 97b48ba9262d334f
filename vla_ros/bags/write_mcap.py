"""An MCAP file (https://mcap.dev/spec) that holds whole chunks only, at every moment of its being written."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla_ros.bags.compression import zstd

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, DATA_END = 0x0B, 0x0F
RECORD_HEAD = struct.Struct("<BQ")
"""Opcode, and length of what follows."""
MESSAGE_HEAD = struct.Struct("<BQHIQQ")
"""Of a record; then channel, no sequence number, time of arrival, the same as time of publishing; the bytes follow."""
# Large enough for fast reading, small enough that readers of many bags can hold one of each.
MAX_CHUNK_BYTES = 4 * 2**20


@dataclass
class Written:
    """Messages that are in the file: their counts by channel, and the first and last of their times, ns."""

    num_messages: Counter[int] = field(default_factory=Counter)
    first_ns: int = 0
    last_ns: int = 0

    def add(self, num_messages: Mapping[int, int], first_ns: int, last_ns: int) -> None:
        self.first_ns = min(self.first_ns, first_ns) if self.num_messages.total() else first_ns
        self.last_ns = max(self.last_ns, last_ns)
        self.num_messages.update(num_messages)


class _Chunk:
    """Records that wait to be written as one; ``index`` holds pairs of time and offset for each channel."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.index: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def add_message(self, channel_id: int, stamp_ns: int, data: bytes | memoryview) -> None:
        self.index[channel_id].append((stamp_ns, len(self.buffer)))
        length = MESSAGE_HEAD.size - RECORD_HEAD.size + len(data)
        self.buffer += MESSAGE_HEAD.pack(MESSAGE, length, channel_id, 0, stamp_ns, stamp_ns)
        self.buffer += data


class McapWriter:
    """Writes the new file ``path``, its chunks packed with zstd where they are to ``compress``.

    Messages gather in memory until ``end_chunk``, which ``write`` calls by itself where they have become many. A chunk
    goes to the kernel with its index in one piece: a process that is killed leaves whole chunks, and one that cannot be
    written whole is taken back. Methods raise OSError where the disk does; ``finish`` may still work then.
    """

    def __init__(self, path: Path, library: str, compress: bool = False) -> None:
        self.written = Written()
        self._compression = "zstd" if compress else ""
        self._file = path.open("xb", buffering=0)
        self._size = 0
        self._chunk = _Chunk()
        self._schemas: dict[str, bytes] = {}
        self._channels: list[bytes] = []
        self._chunk_indexes: list[bytes] = []
        self._append(MAGIC + _record(HEADER, _string("ros2") + _string(library)))

    def add_channel(self, topic: str, schema: str, definition: str, metadata: Mapping[str, str]) -> int:
        """The number of a new channel of CDR messages; ``definition`` describes ``schema`` as .msg files do."""
        if schema not in self._schemas:
            schema_id = struct.pack("<H", len(self._schemas) + 1)
            content = schema_id + _string(schema) + _string("ros2msg") + _string(definition)
            self._schemas[schema] = _record(SCHEMA, content)
            self._chunk.buffer += self._schemas[schema]
        channel_id, schema_number = len(self._channels) + 1, list(self._schemas).index(schema) + 1
        entries = b"".join(_string(key) + _string(value) for key, value in metadata.items())
        content = struct.pack("<HH", channel_id, schema_number) + _string(topic) + _string("cdr") + _sized(entries)
        self._channels.append(_record(CHANNEL, content))
        self._chunk.buffer += self._channels[-1]
        self.written.num_messages[channel_id] = 0
        return channel_id

    def write(self, channel_id: int, stamp_ns: int, data: bytes | memoryview) -> None:
        """Add a serialized message that arrived at ``stamp_ns``."""
        self._chunk.add_message(channel_id, stamp_ns, data)
        if len(self._chunk.buffer) >= MAX_CHUNK_BYTES:
            self.end_chunk()

    def end_chunk(self) -> None:
        """Write what has gathered. Where that fails, it is lost, and the file is as it was before."""
        chunk, start = self._chunk, self._size
        if not chunk.index:
            return
        self._chunk = _Chunk()
        stamps_ns = [stamp_ns for entries in chunk.index.values() for stamp_ns, _ in entries]
        first_ns, last_ns, num_bytes = min(stamps_ns), max(stamps_ns), len(chunk.buffer)
        records = zstd.compress(chunk.buffer) if self._compression else chunk.buffer
        # Without a checksum.
        head = struct.pack("<QQQI", first_ns, last_ns, num_bytes, 0) + _string(self._compression)
        head += struct.pack("<Q", len(records))
        buffer = bytearray(RECORD_HEAD.pack(CHUNK, len(head) + len(records)) + head)
        buffer += records
        chunk_size, offsets = len(buffer), b""
        for channel_id, entries in chunk.index.items():
            offsets += struct.pack("<HQ", channel_id, start + len(buffer))
            pairs = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            buffer += _record(MESSAGE_INDEX, struct.pack("<H", channel_id) + _sized(pairs))
        self._append(buffer)
        content = struct.pack("<QQQQ", first_ns, last_ns, start, chunk_size) + _sized(offsets)
        # Size of the indexes behind the chunk; the chunk's records with and without compression.
        content += struct.pack("<Q", len(buffer) - chunk_size) + _string(self._compression)
        content += struct.pack("<QQ", len(records), num_bytes)
        self._chunk_indexes.append(_record(CHUNK_INDEX, content))
        self.written.add({channel_id: len(entries) for channel_id, entries in chunk.index.items()}, first_ns, last_ns)

    def finish(self) -> None:
        """Write what has gathered and the summary, which lets readers seek; closes the file, whatever happens."""
        with self._file:
            try:
                self.end_chunk()
            finally:
                self._append(self._end())

    def _end(self) -> bytes:
        data_end = _record(DATA_END, struct.pack("<I", 0))
        summary = [*self._schemas.values(), *self._channels, *self._chunk_indexes, self._statistics()]
        footer = _record(FOOTER, struct.pack("<QQI", self._size + len(data_end), 0, 0))
        return b"".join([data_end, *summary, footer, MAGIC])

    def _statistics(self) -> bytes:
        written = self.written
        counts = b"".join(struct.pack("<HQ", *entry) for entry in written.num_messages.items())
        # Attachments and metadata records: none.
        content = struct.pack("<QHIII", written.num_messages.total(), len(self._schemas), len(self._channels), 0, 0)
        content += struct.pack("<IQQ", len(self._chunk_indexes), written.first_ns, written.last_ns)
        return _record(STATISTICS, content + _sized(counts))

    def _append(self, data: bytes | bytearray) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # Half a record would hide whatever comes after it.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(data)


def _record(opcode: int, content: bytes) -> bytes:
    return RECORD_HEAD.pack(opcode, len(content)) + content


def _sized(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _string(text: str) -> bytes:
    return _sized(text.encode())
