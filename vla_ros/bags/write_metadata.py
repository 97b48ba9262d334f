"""``metadata.yaml`` of a rosbag2 bag, version 9, as ROS 2 Jazzy and newer write it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

VERSION = 9


@dataclass(frozen=True)
class WrittenTopic:
    """A topic of a bag; ``type_hash`` is its type's RIHS01 hash, ``offered_qos`` one profile for each publisher."""

    name: str
    msgtype: str
    type_hash: str
    offered_qos: tuple[Qos, ...]


def metadata_text(storage_file: str, counts: Mapping[WrittenTopic, int], first_ns: int, last_ns: int) -> str:
    """The text of ``metadata.yaml`` for a bag of one MCAP file with so many messages of each topic, between two
    times."""
    times = {
        "starting_time": {"nanoseconds_since_epoch": first_ns},
        "duration": {"nanoseconds": last_ns - first_ns},
        "message_count": sum(counts.values()),
    }
    information = {
        "version": VERSION,
        "storage_identifier": "mcap",
        **times,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.msgtype,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": _qos_profiles(topic.offered_qos),
                    "type_description_hash": topic.type_hash,
                },
                "message_count": num_messages,
            }
            for topic, num_messages in counts.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [storage_file],
        "files": [{"path": storage_file, **times}],
        "custom_data": None,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }
    return _yaml({"rosbag2_bagfile_information": information}) + "\n"


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


def qos_text(profiles: Sequence[Qos]) -> str:
    """Profiles as a channel's metadata carries them."""
    return _yaml(_qos_profiles(profiles))


def _qos_profiles(profiles: Sequence[Qos]) -> list[dict[str, Any]]:
    return [
        {
            "history": qos.history.name.lower(),
            "depth": qos.depth,
            "reliability": qos.reliability.name.lower(),
            "durability": qos.durability.name.lower(),
            "deadline": _duration(qos.deadline),
            "lifespan": _duration(qos.lifespan),
            "liveliness": qos.liveliness.name.lower(),
            "liveliness_lease_duration": _duration(qos.liveliness_lease_duration),
            "avoid_ros_namespace_conventions": qos.avoid_ros_namespace_conventions,
        }
        for qos in profiles
    ]


def _duration(time: QosTime) -> dict[str, int]:
    return {"sec": time.sec, "nsec": time.nsec}


def _yaml(value: Any, indent: str = "") -> str:
    """Mappings and sequences as blocks; scalars, and what is empty, as JSON, which is YAML."""
    if isinstance(value, dict) and value:
        return "\n".join(f"{indent}{key}:{_entry(item, indent + '  ')}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "\n".join(f"{indent}- {_yaml(item, indent + '  ').lstrip()}" for item in value)
    return json.dumps(value)


def _entry(value: Any, indent: str) -> str:
    is_block = isinstance(value, (dict, list)) and bool(value)
    return f"\n{_yaml(value, indent)}" if is_block else f" {_yaml(value)}"
