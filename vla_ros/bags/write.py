"""rosbag2 MCAP files written through ``rosbags``: no ROS graph, no ROS installation."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from vla_ros.bags.types import TYPES


class BagWriter:
    """Writes one rosbag2 MCAP bag, the folder ``path``; use it as a context manager.

    ``compress`` packs chunks with zstd, which readers of MCAP undo by themselves. Raises ValueError where the folder
    exists already or cannot be written.
    """

    def __init__(self, path: str | Path, *, compress: bool = False) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._writer = Writer(self._path, version=9, storage_plugin=StoragePlugin.MCAP)
        except WriterError as error:
            raise ValueError(f"bag {self._path}: {error}; give a folder that does not exist yet") from error
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._connections: dict[str, Connection] = {}

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False) -> None:
        """Declare ``topic`` before its first message; ``latched`` records it as transient local."""
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=TYPES, offered_qos_profiles=[_qos(latched)]
        )

    def write(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Serialize and append one message made with ``message_type``."""
        connection = self._connections[topic]
        self._writer.write(connection, stamp_ns, TYPES.serialize_cdr(message, connection.msgtype))

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _qos(latched: bool) -> Qos:
    forever = QosTime(2147483647, 4294967295)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
