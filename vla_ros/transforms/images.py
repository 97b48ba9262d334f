"""Image resizing, one way for the robot and for training."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize(image: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> np.ndarray:
    """uint8 RGB [h, w, 3] to [height, width, 3], with antialiasing as Pillow does it."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), resampling))


def resize_with_padding(image: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> np.ndarray:
    """As ``resize``, in its own shape: what is left of [height, width, 3] on both sides is black."""
    ratio = max(image.shape[0] / height, image.shape[1] / width)
    rows, columns = (max(1, int(side / ratio)) for side in image.shape[:2])
    top, left = (height - rows) // 2, (width - columns) // 2
    padded = np.zeros((height, width, 3), np.uint8)
    padded[top : top + rows, left : left + columns] = resize(image, rows, columns, resampling)
    return padded


def patchify(images: np.ndarray, patch: int) -> np.ndarray:
    """Images [batch, cameras, height, width, channels] to patches [batch, patches, channels * patch * patch].

    Patches go row by row through one image after another; inside a patch channels come first. What is no whole patch at
    the right and at the bottom is left out, as by a convolution of that stride.
    """
    batch, cameras, height, width, channels = images.shape
    rows, cols = height // patch, width // patch
    whole = images[:, :, : rows * patch, : cols * patch]
    blocks = whole.reshape(batch, cameras, rows, patch, cols, patch, channels)
    return blocks.transpose(0, 1, 2, 4, 6, 3, 5).reshape(batch, -1, channels * patch * patch)
