"""How the messages of a bag are laid out: by the definitions it brings, or by those of its distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_ros.bags.storage import Channel, one_line
from vla_ros.strict import MAX_DEPTH

TYPES = get_typestore(Stores.ROS2_JAZZY)
"""The message types bags are written with; a bag read back brings its own definitions."""
# Files without definitions come from Humble, which doesn't name itself.
_OLDEST = "humble"
# Far beyond any type there is: the library makes code for each value of a message that isn't a number.
MAX_CHARACTERS, MAX_VALUES = 1 << 16, 2000
_IDL_SECTION = "=" * 80 + "\nIDL: "
# rclpy's serialize_message pads an empty float64 array at the end of a message.
_PADDING_BYTES = 4


def message_type(msgtype: str) -> type:
    """The class for a message type such as ``sensor_msgs/msg/Image``."""
    return TYPES.types[msgtype]


def serialize(message: Any) -> memoryview:
    """The bytes of a message made with ``message_type``."""
    return TYPES.serialize_cdr(message, message.__msgtype__)


@dataclass(frozen=True)
class Layout:
    """How one message type is laid out. ``is_standard`` where that is ROS's own way."""

    msgtype: str
    types: Typestore
    is_standard: bool

    def decode(self, data: bytes | memoryview) -> Any:
        """The message in ``data``; its arrays are views of it. Raises ValueError for other ``data``."""
        try:
            try:
                return self.types.deserialize_cdr(data, self.msgtype)
            except SerdeError:
                return self.types.deserialize_cdr(data[:-_PADDING_BYTES], self.msgtype)
        except Exception as error:  # damaged data show as whatever the decoder trips over
            what = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"message of {len(data)} bytes is not a valid {self.msgtype} ({what})") from error


@lru_cache(maxsize=256)
def layout_of(channel: Channel, distribution: str = _OLDEST) -> Layout:
    """How messages of ``channel`` are laid out; ``distribution`` counts where the file brings no definition.

    Raises ValueError for messages that are not CDR, and for a type that neither defines.
    """
    if channel.serialization != "cdr":
        raise ValueError(f"messages are serialized as '{channel.serialization}'; expected cdr")
    if channel.definition:
        return _defined(channel)
    types = get_typestore(Stores.__members__.get(f"ROS2_{distribution.upper()}", Stores.ROS2_HUMBLE))
    if channel.msgtype not in types.fielddefs:
        raise ValueError(f"the bag does not define {channel.msgtype}, and ROS 2 {distribution} has no such type")
    return Layout(channel.msgtype, types, is_standard=True)


def is_same_layout(one: Channel, other: Channel) -> bool:
    """Whether two channels' messages can be read alike, however their definitions are worded."""
    if one is other or one == other:
        return True
    try:
        is_same = _fields(one) == _fields(other)
    except ValueError:  # nobody can tell
        return False
    return is_same and (one.msgtype, one.serialization) == (other.msgtype, other.serialization)


def _defined(channel: Channel) -> Layout:
    fields = _fields(channel)
    # ROS's own types are read with the library's code: none is made from what stands in a bag.
    if all(name in TYPES.fielddefs and TYPES.fielddefs[name][1] == fields[name] for name in fields):
        return Layout(channel.msgtype, TYPES, is_standard=True)
    types = get_typestore(Stores.EMPTY)
    try:
        num = _num_values((Nodetype.NAME, channel.msgtype), fields, {})
        if num > MAX_VALUES:
            raise ValueError(f"it has {num} values; expected at most {MAX_VALUES}")
        types.register(_parse(channel))
    except Exception as error:  # the library's parser raises many kinds
        raise _refusal(channel, error) from error
    return Layout(channel.msgtype, types, is_standard=False)


def _fields(channel: Channel) -> dict[str, Any]:
    """The fields of a channel's type and of all types in it, by type; constants and defaults don't count."""
    return {name: fields for name, (_, fields) in _parse(channel).items()}


def _num_values(field: Any, fields: dict[str, Any], known: dict[str, int], depth: int = 0) -> int:
    """How many values a field has at least, with an array of numbers as one; ``known`` are those of types."""
    kind, what = field
    if kind == Nodetype.BASE:
        return 1
    if kind != Nodetype.NAME:
        is_numbers = what[0][0] == Nodetype.BASE and what[0][1][0] != "string"
        num = what[1] if kind == Nodetype.ARRAY and not is_numbers else 1
        return num * _num_values(what[0], fields, known, depth)
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests more than {MAX_DEPTH} levels")
    if what not in known:
        known[what] = 1 + sum(_num_values(inner, fields, known, depth + 1) for _, inner in fields.get(what, ()))
    return known[what]


@lru_cache(maxsize=256)
def _parse(channel: Channel) -> dict[str, Any]:
    if len(channel.definition) > MAX_CHARACTERS:
        raise _refusal(channel, ValueError(f"{len(channel.definition)} characters; expected at most {MAX_CHARACTERS}"))
    text = channel.definition.replace("\r\n", "\n").replace("\r", "\n")
    try:
        if channel.definition_format == "ros2msg":
            return get_types_from_msg(text, channel.msgtype)
        sections = text.split(_IDL_SECTION) if _IDL_SECTION in text else [f"\n{text}"]
        texts = (section.partition("\n")[2] for section in sections)
        return {name: parsed for idl in texts if idl.strip() for name, parsed in get_types_from_idl(idl).items()}
    except Exception as error:  # as above
        raise _refusal(channel, error) from error


def _refusal(channel: Channel, error: Exception) -> ValueError:
    return ValueError(
        f"the definition of {channel.msgtype} in the bag cannot be read ({type(error).__name__}: {one_line(error)})"
    )
