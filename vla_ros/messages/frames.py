"""The picture of one camera of a robot file, out of its messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.messages.images import Converter, decode_image

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Baseline, extended and progressive; of all others cv2 decides.
_SIZE_MARKERS = (0xC0, 0xC1, 0xC2)


def decode_frame(msg: Any, width: int, height: int, convert: Converter | None = None) -> np.ndarray:
    """As ``decode_image``: uint8 ``[height, width, 3]``. Raises ValueError for another size, too."""
    image = decode_image(msg, convert)
    if image.shape != (height, width, 3):
        raise ValueError(
            f"image of {image.shape[1]}x{image.shape[0]} pixels; expected {width}x{height}: "
            "fix width and height in the robot file, or the driver's settings"
        )
    return image


def is_whole_jpeg(msg: Any, width: int, height: int) -> bool:
    """Whether a CompressedImage is a JPEG from its start to its end and of that size, as far as its header tells: then
    ``decode_frame`` can wait until somebody looks. Nothing is decoded here."""
    data = np.frombuffer(msg.data, np.uint8).data
    if "compressedDepth" in msg.format or data[:2] != _JPEG_START or data[-2:] != _JPEG_END:
        return False
    position = 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _SIZE_MARKERS:
            found = tuple(int.from_bytes(data[position + i : position + i + 2], "big") for i in (5, 7))
            return found == (height, width)
        position += 2 + size
    return False
