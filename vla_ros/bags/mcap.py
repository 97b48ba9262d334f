"""MCAP files (https://mcap.dev/spec), read from their beginning to their end.

The index at the end gives topics and counts only: a recording that was cut off has none, so a whole file and a broken
one go through the same code and come in the same order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from vla_ros.bags.compression import COMPRESSED_SUFFIX, ZstdError, decompress, open_file
from vla_ros.bags.storage import (
    MAX_BYTES,
    BagTopic,
    Channel,
    Contents,
    DamagedFile,
    RawMessage,
    full_msgtype,
    full_topic,
    one_line,
)
from vla_ros.strict import max_unpacked_bytes

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = struct.Struct("<BQ")
"""Kind, and length of what follows."""
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence number, times of arrival and of publishing, ns; the serialized message follows."""
CHUNK_HEAD = struct.Struct("<QQQI")
"""First and last time, ns, bytes without compression, and checksum; compression and records follow."""
STATISTICS_HEAD = struct.Struct("<QHIIIIQQ")
"""Numbers of messages, schemas, channels, attachments, metadata and chunks, first and last time, ns; messages by
channel follow."""
_LENGTH = struct.Struct("<I")
_FOOTER_BYTES = 20


class Op(IntEnum):
    """Kinds of records."""

    HEADER = 0x01
    FOOTER = 0x02
    SCHEMA = 0x03
    CHANNEL = 0x04
    MESSAGE = 0x05
    CHUNK = 0x06
    MESSAGE_INDEX = 0x07
    CHUNK_INDEX = 0x08
    STATISTICS = 0x0B
    DATA_END = 0x0F


# What bytes that are not MCAP raise.
_NONSENSE = (DamagedFile, ZstdError, struct.error, LookupError)


def scan(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[RawMessage]:
    """The messages of the topics that ``is_wanted``, in the order they were written.

    Their data are views of the chunk they came in. Raises DamagedFile where the file breaks off or makes no sense.
    """
    records = _Records(is_wanted, max_unpacked_bytes(path.stat().st_size))
    with open_file(path) as file:
        start = 0
        try:
            _check_magic(_read(file, len(MAGIC)))
            while True:
                start = file.tell()
                op, content = _next_record(file)
                if op in (Op.DATA_END, Op.FOOTER):
                    return
                if op == Op.CHUNK:
                    yield from records.chunk(content, start)
                elif message := records.take(op, content):
                    yield message._replace(place=(0, start, -1))
        except _CutOff as cut:
            with suppress(*_NONSENSE):
                yield from records.chunk(cut.chunk, start, is_cut_off=True)
            raise DamagedFile("it is cut off: the recording did not end properly") from cut
        except _NONSENSE as error:
            raise DamagedFile(f"the record at byte {start} is damaged ({one_line(error)})") from error


class Messages:
    """Messages of a file by their ``place``. The last chunk is kept, for what is read next lies often in it."""

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        self._start, self._inside = -1, memoryview(b"")
        self._most = max_unpacked_bytes(path.stat().st_size)

    def read(self, start: int, position: int) -> memoryview:
        """The serialized message there. Raises DamagedFile where there is none."""
        try:
            if start != self._start:
                self._inside, self._start = self._unpack(start), start
            if position < 0:
                return self._inside[MESSAGE_HEAD.size :]
            op, size = RECORD_HEAD.unpack_from(self._inside, position - RECORD_HEAD.size)
            if op != Op.MESSAGE:
                raise DamagedFile(f"a record of kind {op} where a message was")
            return self._inside[position + MESSAGE_HEAD.size : position + size]
        except (*_NONSENSE, _CutOff, OSError) as error:
            raise DamagedFile(f"no message at byte {start} any more ({one_line(error)})") from error

    def close(self) -> None:
        self._file.close()

    def _unpack(self, start: int) -> memoryview:
        """What is in the record there: a chunk's records, or a message."""
        self._file.seek(start)
        records = _Records(lambda topic: False, self._most)
        try:
            op, content = _next_record(self._file)
        except _CutOff as cut:
            return records.unpack(cut.chunk, is_cut_off=True)
        return records.unpack(content) if op == Op.CHUNK else content


def read_contents(path: Path) -> Contents | None:
    """What the end of the file says it holds; None where it is compressed as a whole, and its end is far.

    Raises DamagedFile where that cannot be read.
    """
    if path.suffix == COMPRESSED_SUFFIX:
        return None
    try:
        with open_file(path) as file:
            _check_magic(_read(file, len(MAGIC)))
            file.seek(-(RECORD_HEAD.size + _FOOTER_BYTES + len(MAGIC)), 2)
            op, size = RECORD_HEAD.unpack(file.read(RECORD_HEAD.size))
            (start,) = struct.unpack_from("<Q", file.read(_FOOTER_BYTES))
            if (op, size, file.read()) == (Op.FOOTER, _FOOTER_BYTES, MAGIC) and start:
                return _read_summary(file, start)
    except (*_NONSENSE, OSError, _CutOff) as error:
        raise DamagedFile("it has no usable index at its end") from error
    raise DamagedFile("it has no index at its end")


def _read_summary(file: BinaryIO, start: int) -> Contents:
    file.seek(start)
    records = _Records(lambda topic: True)
    statistics: memoryview | None = None
    op = None
    while op != Op.FOOTER:
        op, content = _next_record(file)
        if op in (Op.SCHEMA, Op.CHANNEL):
            records.take(op, content)
        elif op == Op.STATISTICS:
            statistics = content
    if statistics is None:
        raise DamagedFile("its index has no statistics")
    num_messages, *_, start_ns, end_ns = STATISTICS_HEAD.unpack_from(statistics)
    counts = dict(struct.iter_unpack("<HQ", _prefixed(statistics, STATISTICS_HEAD.size)))
    channels = records.channels.items()
    topics = tuple(BagTopic(channel.topic, channel.msgtype, counts.get(key, 0)) for key, channel in channels)
    return Contents(topics, *((start_ns, end_ns) if num_messages else (None, None)))


class _CutOff(Exception):
    """The file ends within a record; ``chunk`` is what there is of it, if it is a chunk."""

    def __init__(self, chunk: memoryview | None = None) -> None:
        self.chunk = memoryview(b"") if chunk is None else chunk


class _Records:
    """What schemas and channels have said so far, and the messages that refer to them; all chunks together unpack to at
    most ``num_left`` bytes."""

    def __init__(self, is_wanted: Callable[[str], bool], num_left: int = 0) -> None:
        self.channels: dict[int, Channel] = {}
        self._unwanted: set[int] = set()
        self._schemas: dict[int, bytes] = {}
        self._is_wanted = is_wanted
        self._num_left = num_left

    def take(self, op: int, content: memoryview) -> RawMessage | None:
        """Read a record; a message of a channel that is wanted is returned."""
        if op == Op.MESSAGE:
            number, _, stamp_ns, _ = MESSAGE_HEAD.unpack_from(content)
            channel = self.channels.get(number)
            if channel is not None:
                return RawMessage(channel, stamp_ns, content[MESSAGE_HEAD.size :])
            if number not in self._unwanted:
                raise DamagedFile(f"a message of channel {number}, which has not been declared")
        elif op == Op.SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            self._schemas[number] = bytes(content)
        elif op == Op.CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, serialization = _texts(content, 4, 2)
            topic = full_topic(topic)
            if not self._is_wanted(topic):
                self._unwanted.add(number)
                return None
            # What no wanted channel refers to may be damaged, or a schema of another kind.
            msgtype, encoding, definition = _texts(self._schemas[schema], 2, 3) if schema else ("", "", "")
            encoding = encoding if definition else ""
            self.channels[number] = Channel(topic, full_msgtype(msgtype), serialization, encoding, definition)
        return None

    def chunk(self, content: memoryview, start: int, is_cut_off: bool = False) -> Iterator[RawMessage]:
        """The messages of the chunk at ``start``; of one that is cut off, as many as are whole."""
        inside = self.unpack(content, is_cut_off)
        position, end = 0, len(inside)
        while position < end:
            op, size = RECORD_HEAD.unpack_from(inside, position)
            position += RECORD_HEAD.size + size
            if position > end:
                raise DamagedFile(f"a record of {size} bytes runs past the end of its chunk")
            if message := self.take(op, inside[position - size : position]):
                yield message._replace(place=(0, start, position - size))

    def unpack(self, content: memoryview, is_cut_off: bool = False) -> memoryview:
        """The records of a chunk; of one that is cut off, what there is of them."""
        _, _, size, checksum = CHUNK_HEAD.unpack_from(content)
        (compression,) = _texts(content, CHUNK_HEAD.size, 1)
        start = CHUNK_HEAD.size + _LENGTH.size + len(compression) + 8
        (stored_size,) = struct.unpack_from("<Q", content, start - 8)
        inside = content[start : start + stored_size]
        if compression:
            inside = memoryview(decompress(inside, compression, min(size, self._num_left)))
            self._num_left -= len(inside)
            # A flipped byte of a chunk that isn't compressed stays where it is; in one that is, it spreads.
            if checksum and not is_cut_off and zlib.crc32(inside) != checksum:
                raise DamagedFile("a chunk's checksum is wrong")
        if len(inside) != size and not is_cut_off:
            raise DamagedFile(f"a chunk of {len(inside)} bytes; expected {size}")
        return inside


def _prefixed(data: bytes | memoryview, start: int) -> bytes | memoryview:
    """What lies in ``data`` at ``start`` behind its length."""
    (size,) = _LENGTH.unpack_from(data, start)
    content = data[start + _LENGTH.size :][:size]
    if len(content) != size:
        raise DamagedFile(f"a field of {size} bytes runs past the end of its record")
    return content


def _texts(data: bytes | memoryview, start: int, num_texts: int) -> tuple[str, ...]:
    """Texts that follow each other. What is not UTF-8 in them is replaced: a schema may be binary, or Latin-1."""
    texts = []
    for _ in range(num_texts):
        content = _prefixed(data, start)
        texts.append(bytes(content).decode(errors="replace"))
        start += _LENGTH.size + len(content)
    return tuple(texts)


def _next_record(file: BinaryIO) -> tuple[int, memoryview]:
    """A record's opcode and content, which is empty for those that nobody here reads."""
    head = _read(file, RECORD_HEAD.size)
    if len(head) < RECORD_HEAD.size:
        raise _CutOff
    op, size = RECORD_HEAD.unpack(head)
    if not op or size > MAX_BYTES:
        raise DamagedFile(f"a record of kind {op} with {size} bytes; expected at most {MAX_BYTES}")
    if op not in (Op.SCHEMA, Op.CHANNEL, Op.MESSAGE, Op.CHUNK, Op.STATISTICS):
        file.seek(size, 1)
        return op, memoryview(b"")
    content = memoryview(_read(file, size))
    if len(content) < size:
        raise _CutOff(content) if op == Op.CHUNK else _CutOff
    return op, content


def _read(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except EOFError as error:  # of a file that is compressed as a whole
        raise _CutOff from error


def _check_magic(magic: bytes) -> None:
    if not magic:
        raise DamagedFile("it is empty")
    if magic != MAGIC:
        raise DamagedFile("it is not a valid MCAP file")
