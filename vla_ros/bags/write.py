"""A rosbag2 MCAP bag that can be read whatever becomes of the process that writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2.metadata import dump_qos_v9

from vla_ros.bags.definitions import TYPES
from vla_ros.bags.write_mcap import McapWriter
from vla_ros.strict import explained

# Of metadata.yaml, as ROS 2 Jazzy and newer write it.
VERSION = 9
# Kept in memory between two flushes at most.
MAX_PENDING_BYTES = 1 << 26


def make_qos(latched: bool = False) -> Qos:
    """What a publisher offers that is reliable and keeps one message, for late subscribers too where ``latched``."""
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


class BagWriter(AbstractContextManager["BagWriter"]):
    """Writes serialized messages into one new bag, the folder ``path``; use it as a context manager.

    ``metadata.yaml`` comes first and is renewed at each ``flush``, which the caller calls as often as it can bear to
    lose something: after a kill, the bag holds whatever came before the last one. (A power failure takes what the
    kernel has not written yet, too.) Between two flushes messages may come in any order. Raises ValueError where
    the folder exists or cannot be written, now or later; what was written before stays good. ``compress`` packs
    chunks with zstd, which readers of MCAP undo by themselves; ``notes`` are kept in ``metadata.yaml``.
    """

    def __init__(self, path: str | Path, compress: bool = False, notes: Mapping[str, str] | None = None) -> None:
        self._path = Path(path)
        self._notes = dict(notes) if notes else None
        # As rosbag2 names its first file.
        self._storage_name = f"{self._path.name}_0.mcap"
        self._channel_ids: dict[str, int] = {}
        self._topic_metadata: dict[int, dict[str, Any]] = {}
        self._pending: list[tuple[int, int, bytes | memoryview]] = []
        self._num_pending_bytes = 0
        taken = explained(f"bag {self._path}: ", FileExistsError, after="; give a folder that does not exist yet")
        with explained(f"bag {self._path}: ", OSError, after="; give a folder that can be written"), taken:
            self._path.mkdir(parents=True)
            self._mcap = McapWriter(self._path / self._storage_name, "vla_ros", compress)
            self._write_metadata()

    def add_topic(self, topic: str, msgtype: str, offered_qos: Sequence[Qos] = (make_qos(),)) -> None:
        """Declare ``topic`` before its first message; ``offered_qos`` is what its publishers offer."""
        definition, _ = TYPES.generate_msgdef(msgtype, ros_version=2)
        profiles, type_hash = dump_qos_v9(list(offered_qos)), TYPES.hash_rihs01(msgtype)
        metadata = {"offered_qos_profiles": _yaml(profiles), "topic_type_hash": type_hash}
        self._channel_ids[topic] = channel_id = self._mcap.add_channel(topic, msgtype, definition, metadata)
        self._topic_metadata[channel_id] = {
            "name": topic,
            "type": msgtype,
            "serialization_format": "cdr",
            "offered_qos_profiles": profiles,
            "type_description_hash": type_hash,
        }

    def write(self, topic: str, data: bytes | memoryview, stamp_ns: int) -> None:
        """Append one serialized message, byte for byte; ``stamp_ns`` is when it came."""
        self._pending.append((stamp_ns, self._channel_ids[topic], data))
        self._num_pending_bytes += len(data)
        if self._num_pending_bytes > MAX_PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel, and say in ``metadata.yaml`` what there is now."""
        with self._disk_failing():
            self._write_pending()
            self._mcap.end_chunk()
            self._write_metadata()

    def close(self) -> None:
        """Finish the bag."""
        with self._disk_failing():
            try:
                self._write_pending()
            finally:
                self._mcap.finish()
                self._write_metadata()

    def _write_pending(self) -> None:
        """In the order of time, which spares readers much."""
        pending, self._pending, self._num_pending_bytes = self._pending, [], 0
        for stamp_ns, channel_id, data in sorted(pending, key=lambda message: message[0]):
            self._mcap.write(channel_id, stamp_ns, data)

    def _write_metadata(self) -> None:
        new = self._path / "metadata.yaml.new"
        try:
            new.write_text(_yaml({"rosbag2_bagfile_information": self._information()}))
        except OSError:
            new.unlink(missing_ok=True)
            raise
        os.replace(new, self._path / "metadata.yaml")

    def _information(self) -> dict[str, Any]:
        mcap = self._mcap
        times = {
            "starting_time": {"nanoseconds_since_epoch": mcap.first_ns},
            "duration": {"nanoseconds": mcap.last_ns - mcap.first_ns},
            "message_count": mcap.num_messages.total(),
        }
        return {
            "version": VERSION,
            "storage_identifier": "mcap",
            **times,
            "topics_with_message_count": [
                {"topic_metadata": metadata, "message_count": mcap.num_messages[channel_id]}
                for channel_id, metadata in self._topic_metadata.items()
            ],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._storage_name],
            "files": [{"path": self._storage_name, **times}],
            "custom_data": self._notes,
            "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
        }

    def _disk_failing(self) -> AbstractContextManager[None]:
        fix = "; what came before is kept; record to a disk with more space"
        return explained(f"bag {self._path}: ", OSError, after=fix)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # On a full disk the end may fail like what came before it, of which the caller should hear.
        with suppress(ValueError) if error is not None else nullcontext():
            self.close()


class _Dumper(yaml.CSafeDumper):
    """Writes what occurs twice twice, without an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))
