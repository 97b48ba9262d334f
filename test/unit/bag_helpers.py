"""What is in a bag: decoded, or of one that may have lost its end, without the package's own reader."""

import struct
from collections import namedtuple
from pathlib import Path

from vla_ros.bags.read import BagReader

BagMessage = namedtuple("BagMessage", "topic msgtype stamp_ns message")

MAGIC = b"\x89MCAP0\r\n"
CHANNEL, MESSAGE, CHUNK = 4, 5, 6
CHUNK_HEAD_BYTES = 40


def read_bag(path, topics=()):
    """The decoded messages of a bag; raises ValueError, behind the last usable one, for whatever is wrong with it."""
    bag = BagReader(path)
    for raw in bag.messages(topics):
        yield BagMessage(raw.topic, raw.msgtype, raw.stamp_ns, bag.decode(raw))
    if bag.problems:
        raise ValueError("; ".join(bag.problems))


def messages_by_topic(bag):
    """Time and bytes of every whole message of each topic, in the order they lie in the bag's only MCAP file."""
    (path,) = Path(bag).glob("*.mcap")
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    topics, found = {}, {}
    for op, content in _records(data[len(MAGIC) :]):
        for inner, record in _records(content[CHUNK_HEAD_BYTES:]) if op == CHUNK else [(op, content)]:
            if inner == CHANNEL:
                number, _, size = struct.unpack_from("<HHI", record)
                topics[number] = record[8 : 8 + size].decode()
            elif inner == MESSAGE:
                number, _, stamp_ns, _ = struct.unpack_from("<HIQQ", record)
                found.setdefault(topics[number], []).append((stamp_ns, record[22:]))
    return found


def _records(data):
    """Opcode and content of every record that is whole."""
    position = 0
    while position + 9 <= len(data):
        op, size = struct.unpack_from("<BQ", data, position)
        position += 9 + size
        if position <= len(data):
            yield op, data[position - size : position]
