"""What the storage formats of a bag have in common: channels, messages as they lie there, and damage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


class StoredMessage(NamedTuple):
    """One message, serialized: ``data`` may be a view of a larger buffer. ``stamp_ns`` is when it was recorded."""

    channel: Channel
    stamp_ns: int
    data: bytes | memoryview


@dataclass(frozen=True)
class Count:
    """How many messages of ``channel`` a file says it holds."""

    channel: Channel
    num_messages: int


@dataclass(frozen=True)
class Summary:
    """What a file says of itself before it is read; both times are None where it holds no message."""

    counts: tuple[Count, ...]
    start_ns: int | None
    end_ns: int | None


class DamagedFile(Exception):
    """From here on a file cannot be read; everything before has been given out. The text says what is wrong."""
