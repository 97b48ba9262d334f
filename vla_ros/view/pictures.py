"""A camera's picture as it travels to a page: scaled, as JPEG."""

from __future__ import annotations

import struct

import cv2
import numpy as np

MAX_WIDTH, MAX_HEIGHT = 480, 360
QUALITY = 70
_HEAD = struct.Struct("<BBHd")
PICTURE = 1
"""The first byte of a message with a picture."""


def scaled(image: np.ndarray) -> np.ndarray:
    """``image``, uint8 ``[height, width, 3]``, at most ``MAX_WIDTH`` by ``MAX_HEIGHT``, its shape kept."""
    height, width = image.shape[:2]
    share = min(MAX_WIDTH / width, MAX_HEIGHT / height)
    if share >= 1:
        return image
    size = max(1, round(width * share)), max(1, round(height * share))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def encode_picture(camera: int, stamp_s: float, image: np.ndarray) -> bytes:
    """The message for a page: which camera, when it was taken (ROS time), and the JPEG of the RGB ``image``."""
    bgr = cv2.cvtColor(scaled(image), cv2.COLOR_RGB2BGR)
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return _HEAD.pack(PICTURE, camera, 0, stamp_s) + jpeg.tobytes()
