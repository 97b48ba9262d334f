"""What the storage formats of a bag have in common: channels, messages, contents and damage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vla_ros import strict

# No message, and no chunk of messages, is larger: what says so is damaged, and would take all memory.
MAX_BYTES = 1 << 27


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

    ``data`` may be a view of the whole chunk the message came in: whoever keeps it keeps that. ``place`` is where it
    lies: the number of the file in its bag, the chunk or row, and where in that.
    """

    channel: Channel
    stamp_ns: int
    data: bytes | memoryview
    place: tuple[int, int, int] = (0, 0, 0)

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
