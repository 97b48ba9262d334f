"""How a camera's picture becomes what pi0 sees, by the rules it was trained with. Numpy only."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vla_ros.transforms.images import fitted_size, resize_bilinear, resize_with_padding

# LeRobot's change with its version, each written as the first that has it.
RULES = ("lerobot-0.6", "lerobot-0.4", "lerobot-0.3", "openpi")


def make_picture(image: np.ndarray, size: int, rules: str) -> np.ndarray:
    """A square picture [size, size, 3] of a uint8 RGB image: float32 in -1..1, or uint8 as openpi has it.

    The image is made to fit and padded with black, on both sides, the smaller half first; LeRobot 0.3 pads left and
    top only, and 0.4 with -3, three times as dark as black.
    """
    if rules == "openpi":
        return resize_with_padding(image, size, size, Image.Resampling.BILINEAR)
    height, width = fitted_size(image, size, size)
    if image.shape[:2] == (size, size):
        return resize_bilinear(image, size, size) * np.float32(2) - np.float32(1)
    picture = resize_bilinear(image, height, width) * np.float32(2) - np.float32(1)
    return _padded(picture, size, 1 if rules == "lerobot-0.3" else 2, -3 if rules == "lerobot-0.4" else -1)


def _padded(picture: np.ndarray, size: int, num_sides: int, value: float) -> np.ndarray:
    """``num_sides`` 1: all of the padding is on the left and on top."""
    if picture.shape[:2] == (size, size):
        return picture
    padded = np.full((size, size, 3), value, picture.dtype)
    top, left = ((size - side) // num_sides for side in picture.shape[:2])
    padded[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return padded
