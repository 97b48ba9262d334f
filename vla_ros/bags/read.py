"""rosbag2 bags read through ``rosbags``: no ROS graph, no ROS installation."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader, ReaderError

from vla_ros.bags.types import TYPES


@dataclass(frozen=True)
class BagMessage:
    """One message of a bag: ``stamp_ns`` is when it was recorded, in ROS time."""

    topic: str
    msgtype: str
    stamp_ns: int
    message: Any


def read_bag(path: str | Path, topics: Collection[str] = ()) -> Iterator[BagMessage]:
    """The messages of a bag in the order of their recording, of ``topics`` or of all.

    Raises ValueError, naming the bag and how many messages were read, where the bag or a message is damaged.
    """
    path = Path(path)
    num_read = 0
    try:
        with Reader(path) as reader:
            chosen = [c for c in reader.connections if not topics or c.topic in topics]
            for connection, stamp_ns, data in reader.messages(connections=chosen) if chosen else ():
                message = TYPES.deserialize_cdr(data, connection.msgtype)
                num_read += 1
                yield BagMessage(connection.topic, connection.msgtype, stamp_ns, message)
    except ReaderError as error:
        raise ValueError(f"bag {path}: {_line(error)} (after {num_read} messages)") from error
    except Exception as error:  # a damaged bag shows as whatever its decoder trips over: struct, zstd, key, index errors
        raise ValueError(
            f"bag {path}: message {num_read} is damaged ({type(error).__name__}: {_line(error)}); "
            "the messages before it are good: record it again or leave it out"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
