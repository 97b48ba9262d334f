"""A rosbag2 MCAP bag that can be read whatever becomes of the process that writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import Qos

from vla_ros.bags.types import TYPES
from vla_ros.bags.write_mcap import McapWriter
from vla_ros.bags.write_metadata import WrittenTopic, make_qos, metadata_text, qos_text

# Kept in memory between two flushes at most.
MAX_PENDING_BYTES = 1 << 26


class BagWriter(AbstractContextManager["BagWriter"]):
    """Writes serialized messages into one new bag, the folder ``path``; use it as a context manager.

    ``metadata.yaml`` comes first and is renewed at each ``flush``, which the caller calls as often as it can bear to
    lose something: after a kill, the bag holds whatever came before the last one. (A power failure takes what the
    kernel has not written yet, too.) Between two flushes messages may come in any order. Raises ValueError where
    the folder exists or cannot be written, now or later; what was written before stays good. ``compress`` packs
    chunks with zstd, which readers of MCAP undo by themselves.
    """

    def __init__(self, path: str | Path, compress: bool = False) -> None:
        self._path = Path(path)
        # As rosbag2 names its first file.
        storage = self._path / f"{self._path.name}_0.mcap"
        self._topics: dict[str, tuple[int, WrittenTopic]] = {}
        self._pending: list[tuple[int, int, bytes | memoryview]] = []
        self._num_pending_bytes = 0
        try:
            self._path.mkdir(parents=True)
            self._storage_name = storage.name
            self._mcap = McapWriter(storage, "vla_ros", compress)
            self._write_metadata()
        except FileExistsError as error:
            raise ValueError(f"bag {self._path} exists; give a folder that does not exist yet") from error
        except OSError as error:
            what = error.strerror or str(error)
            raise ValueError(f"bag {self._path}: {what}; give a folder that can be written") from error

    def add_topic(self, topic: str, msgtype: str, offered_qos: Sequence[Qos] = (make_qos(),)) -> None:
        """Declare ``topic`` before its first message; ``offered_qos`` is what its publishers offer."""
        definition, _ = TYPES.generate_msgdef(msgtype, ros_version=2)
        entry = WrittenTopic(topic, msgtype, TYPES.hash_rihs01(msgtype), tuple(offered_qos))
        metadata = {"offered_qos_profiles": qos_text(offered_qos), "topic_type_hash": entry.type_hash}
        self._topics[topic] = self._mcap.add_channel(topic, msgtype, definition, metadata), entry

    def write(self, topic: str, data: bytes | memoryview, stamp_ns: int) -> None:
        """Append one serialized message, byte for byte; ``stamp_ns`` is when it came."""
        self._pending.append((stamp_ns, self._topics[topic][0], data))
        self._num_pending_bytes += len(data)
        if self._num_pending_bytes > MAX_PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel, and say in ``metadata.yaml`` what there is now."""
        try:
            self._write_pending()
            self._mcap.end_chunk()
            self._write_metadata()
        except OSError as error:
            raise self._disk_failed(error) from error

    def close(self) -> None:
        """Finish the bag."""
        try:
            try:
                self._write_pending()
            finally:
                self._mcap.finish()
                self._write_metadata()
        except OSError as error:
            raise self._disk_failed(error) from error

    def _write_pending(self) -> None:
        """In the order of time, which spares readers much."""
        pending, self._pending, self._num_pending_bytes = self._pending, [], 0
        for stamp_ns, channel_id, data in sorted(pending, key=lambda message: message[0]):
            self._mcap.write(channel_id, stamp_ns, data)

    def _write_metadata(self) -> None:
        written = self._mcap.written
        counts = {topic: written.num_messages[channel_id] for channel_id, topic in self._topics.values()}
        text = metadata_text(self._storage_name, counts, written.first_ns, written.last_ns)
        new = self._path / "metadata.yaml.new"
        try:
            new.write_text(text)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        os.replace(new, self._path / "metadata.yaml")

    def _disk_failed(self, error: OSError) -> ValueError:
        what = error.strerror or str(error)
        return ValueError(f"bag {self._path}: {what}; what came before is kept; record to a disk with more space")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk the end may fail like what came before it, of which the caller should hear.
        with suppress(ValueError) if error is not None else nullcontext():
            self.close()
