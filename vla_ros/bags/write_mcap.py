"""An MCAP file (https://mcap.dev/spec) that holds whole chunks only, at every moment of its being written."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from vla_ros.bags.compression import zstd
from vla_ros.bags.mcap import CHUNK_HEAD, MAGIC, MESSAGE_HEAD, RECORD_HEAD, STATISTICS_HEAD, Op

# Large enough for fast reading, small enough that readers of many bags can hold one of each.
MAX_CHUNK_BYTES = 4 * 2**20


class McapWriter:
    """Writes the new file ``path``, its chunks packed with zstd where they are to ``compress``.

    Messages gather in memory until ``end_chunk``, which ``write`` calls by itself where they have become many. A chunk
    goes to the kernel with its index in one piece: a process that is killed leaves whole chunks, and one that cannot be
    written whole is taken back. Methods raise OSError where the disk does; ``finish`` may still work then.

    ``num_messages`` counts those that are in the file by channel, ``first_ns`` and ``last_ns`` are their times.
    """

    def __init__(self, path: Path, library: str, compress: bool = False) -> None:
        self.num_messages: Counter[int] = Counter()
        self.first_ns = self.last_ns = 0
        self._compression = "zstd" if compress else ""
        self._file = path.open("xb", buffering=0)
        self._size = 0
        self._schemas: dict[str, bytes] = {}
        self._channels: list[bytes] = []
        self._chunk_indexes: list[bytes] = []
        self._begin_chunk()
        self._append(MAGIC + _record(Op.HEADER, _string("ros2") + _string(library)))

    def add_channel(self, topic: str, schema: str, definition: str, metadata: Mapping[str, str]) -> int:
        """The number of a new channel of CDR messages; ``definition`` describes ``schema`` as .msg files do."""
        if schema not in self._schemas:
            schema_id = struct.pack("<H", len(self._schemas) + 1)
            content = schema_id + _string(schema) + _string("ros2msg") + _string(definition)
            self._schemas[schema] = _record(Op.SCHEMA, content)
            self._records += self._schemas[schema]
        channel_id, schema_number = len(self._channels) + 1, list(self._schemas).index(schema) + 1
        entries = b"".join(_string(key) + _string(value) for key, value in metadata.items())
        content = struct.pack("<HH", channel_id, schema_number) + _string(topic) + _string("cdr") + _sized(entries)
        self._channels.append(_record(Op.CHANNEL, content))
        self._records += self._channels[-1]
        self.num_messages[channel_id] = 0
        return channel_id

    def write(self, channel_id: int, stamp_ns: int, data: bytes | memoryview) -> None:
        """Add a serialized message that arrived at ``stamp_ns``."""
        self._index[channel_id].append((stamp_ns, len(self._records)))
        # Without a sequence number; nobody says when it was published.
        head = MESSAGE_HEAD.pack(channel_id, 0, stamp_ns, stamp_ns)
        self._records += RECORD_HEAD.pack(Op.MESSAGE, len(head) + len(data)) + head
        self._records += data
        if len(self._records) >= MAX_CHUNK_BYTES:
            self.end_chunk()

    def end_chunk(self) -> None:
        """Write what has gathered. Where that fails, it is lost, and the file is as it was before."""
        plain, index, start = self._records, self._index, self._size
        if not index:
            return
        self._begin_chunk()
        stamps_ns = [stamp_ns for entries in index.values() for stamp_ns, _ in entries]
        first_ns, last_ns = min(stamps_ns), max(stamps_ns)
        records = zstd.compress(plain) if self._compression else plain
        # Without a checksum.
        head = CHUNK_HEAD.pack(first_ns, last_ns, len(plain), 0) + _string(self._compression)
        head += struct.pack("<Q", len(records))
        buffer = bytearray(RECORD_HEAD.pack(Op.CHUNK, len(head) + len(records)) + head)
        buffer += records
        chunk_size, offsets = len(buffer), b""
        for channel_id, entries in index.items():
            offsets += struct.pack("<HQ", channel_id, start + len(buffer))
            pairs = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            buffer += _record(Op.MESSAGE_INDEX, struct.pack("<H", channel_id) + _sized(pairs))
        self._append(buffer)
        content = struct.pack("<QQQQ", first_ns, last_ns, start, chunk_size) + _sized(offsets)
        # Size of the indexes behind the chunk; the chunk's records with and without compression.
        content += struct.pack("<Q", len(buffer) - chunk_size) + _string(self._compression)
        content += struct.pack("<QQ", len(records), len(plain))
        self._chunk_indexes.append(_record(Op.CHUNK_INDEX, content))
        self.first_ns = min(self.first_ns, first_ns) if self.num_messages.total() else first_ns
        self.last_ns = max(self.last_ns, last_ns)
        self.num_messages.update({channel_id: len(entries) for channel_id, entries in index.items()})

    def finish(self) -> None:
        """Write what has gathered and the summary, which lets readers seek; closes the file, whatever happens."""
        with self._file:
            try:
                self.end_chunk()
            finally:
                self._append(self._end())

    def _begin_chunk(self) -> None:
        """``_records`` wait to be written as one; ``_index`` holds pairs of time and offset for each channel."""
        self._records = bytearray()
        self._index: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def _end(self) -> bytes:
        data_end = _record(Op.DATA_END, struct.pack("<I", 0))
        summary = [*self._schemas.values(), *self._channels, *self._chunk_indexes, self._statistics()]
        footer = _record(Op.FOOTER, struct.pack("<QQI", self._size + len(data_end), 0, 0))
        return b"".join([data_end, *summary, footer, MAGIC])

    def _statistics(self) -> bytes:
        kinds = len(self._schemas), len(self._channels), 0, 0, len(self._chunk_indexes)
        content = STATISTICS_HEAD.pack(self.num_messages.total(), *kinds, self.first_ns, self.last_ns)
        counts = b"".join(struct.pack("<HQ", *entry) for entry in self.num_messages.items())
        return _record(Op.STATISTICS, content + _sized(counts))

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


def _record(op: Op, content: bytes) -> bytes:
    return RECORD_HEAD.pack(op, len(content)) + content


def _sized(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _string(text: str) -> bytes:
    return _sized(text.encode())
