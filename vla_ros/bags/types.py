"""The message types bags are written with, as ``rosbags`` defines them."""

from __future__ import annotations

from typing import Any

from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_JAZZY)
"""A bag read back brings its own definitions."""


def message_type(msgtype: str) -> type:
    """The class for a message type such as ``sensor_msgs/msg/Image``."""
    return TYPES.types[msgtype]


def serialize(message: Any) -> memoryview:
    """The bytes of a message made with ``message_type``."""
    return TYPES.serialize_cdr(message, message.__msgtype__)
