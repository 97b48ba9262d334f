"""What a ``sensor_msgs/CompressedImage`` holds, by its format string and its headers; nothing is decoded here.

The format is ``<original encoding>; <codec> compressed <compressed encoding>`` from image_transport, where the last may
be empty, or the codec alone from drivers.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

import numpy as np

from vla_ros.messages.jpeg import START, read_jpeg
from vla_ros.strict import quoted

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_SIZE = slice(16, 24)
# Grey, and grey with alpha, in the byte behind the bit depth.
_PNG_COLOUR_TYPE, _PNG_GREY = slice(25, 26), (b"\x00", b"\x04")
_DEPTH = re.compile(r"(8|16|32|64)[usf]c[12]?|mono16")
MAX_PIXELS = 1 << 26  # memory is taken for what a header says
COLOUR_FORMATS = "'jpeg', 'png' or 'rgb8; jpeg compressed bgr8'"


class Refusal(NamedTuple):
    """What a picture is instead of a colour one, and where that is set."""

    what: str
    fix: str


def refuse_format(text: str) -> Refusal | None:
    """Why a CompressedImage of format ``text`` isn't a colour picture; None where it is one, or may be.

    A grey camera's (``mono8``) is taken, as it is in an Image.
    """
    before, separator, codec = text.casefold().rpartition(";")
    words = codec.split()
    after = words[words.index("compressed") + 1 :] if "compressed" in words else []
    original = (before if separator or after or len(words) != 1 else codec).strip()
    encoding = after[0] if after else original
    if "compresseddepth" in text.casefold() or _DEPTH.fullmatch(original) or _DEPTH.fullmatch(encoding):
        return Refusal("depth", "give the camera's colour topic in the robot file")
    if encoding.startswith("bayer"):
        return Refusal(
            "a mosaic", "give the topic of the debayered picture in the robot file, or set the driver to rgb8"
        )
    if encoding == "mono8" and original not in ("", "mono8"):
        return Refusal("grey", f"set the driver's encoding to rgb8: colour is lost in compressing {quoted(original)}")
    return None


def find_problem(msg: Any) -> str:
    """Why a CompressedImage can't be used as a colour picture, in one line; empty where its format and its headers say
    that it is a whole one."""
    data = np.frombuffer(msg.data, np.uint8).tobytes()
    jpeg = read_jpeg(data) if data[:2] == START else None
    is_png = data.startswith(_PNG_START) and len(data) >= 24
    is_grey = jpeg.num_channels == 1 if jpeg else is_png and data[_PNG_COLOUR_TYPE] in _PNG_GREY
    refusal = refuse_format(msg.format)
    if not refusal and is_grey and ";" in msg.format and not msg.format.casefold().startswith("mono8"):
        refusal = Refusal("grey", "set the driver's encoding to rgb8")
    about = f"compressed image of format '{quoted(msg.format)}'"
    height, width = jpeg[:2] if jpeg else struct.unpack_from(">4xII", data, 12)[::-1] if is_png else (0, 0)
    if height * width > MAX_PIXELS:
        return f"{about} has {width}x{height} pixels; expected at most {MAX_PIXELS}: fix the camera's driver"
    if refusal:
        return f"{about} is {refusal.what}; expected a colour picture, such as {COLOUR_FORMATS}: {refusal.fix}"
    if (data[:2] == START and not (jpeg and jpeg.is_whole)) or (is_png and _PNG_END not in data):
        return f"{about} breaks off after {len(data)} bytes; expected a whole picture: check the network and the driver"
    return ""


def header_size(msg: Any) -> tuple[int, int] | None:
    """Height and width by the header of a JPEG or PNG in a CompressedImage; None where neither begins in it."""
    data = np.frombuffer(msg.data, np.uint8).tobytes()
    if data.startswith(_PNG_START) and len(data) >= _PNG_SIZE.stop:
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (_PNG_SIZE.start, _PNG_SIZE.start + 4))
        return height, width
    jpeg = read_jpeg(data)
    return jpeg[:2] if jpeg is not None and jpeg.height else None


def is_whole_jpeg(msg: Any, width: int, height: int) -> bool:
    """Whether a CompressedImage is a JPEG in colour from its start to its end and of that size, as far as its header
    tells: then decoding can wait until somebody looks."""
    jpeg = read_jpeg(np.frombuffer(msg.data, np.uint8).tobytes())
    return jpeg is not None and jpeg[:2] == (height, width) and not find_problem(msg)
