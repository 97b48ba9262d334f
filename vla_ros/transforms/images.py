"""Image resizing, one way for the robot and for training."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image


def resize(image: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> np.ndarray:
    """uint8 RGB [h, w, 3] to [height, width, 3], with antialiasing as Pillow does it."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), resampling))


def resize_with_padding(image: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> np.ndarray:
    """As ``resize``, in its own shape: what is left of [height, width, 3] on both sides is black."""
    rows, columns = fitted_size(image, height, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    padded = np.zeros((height, width, 3), np.uint8)
    padded[top : top + rows, left : left + columns] = resize(image, rows, columns, resampling)
    return padded


def fitted_size(image: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """The largest (height, width) of an image's shape that fits, cut to whole pixels, as LeRobot and openpi cut."""
    ratio = max(image.shape[1] / width, image.shape[0] / height)
    return max(1, int(image.shape[0] / ratio)), max(1, int(image.shape[1] / ratio))


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3] to float32 [height, width, 3] in 0..1, without antialiasing, as torch's ``interpolate`` does it
    with ``align_corners`` off: a pixel's value is that of its centre."""
    if image.shape[:2] == (height, width):
        return image.astype(np.float32) * np.float32(1 / 255)
    rows, columns = _samples(image.shape[0], height), _samples(image.shape[1], width)
    above, below = image[rows.first].astype(np.float32), image[rows.second]
    above += (below - above) * rows.weight[:, None, None]
    left, right = above[:, columns.first], above[:, columns.second]
    left += (right - left) * columns.weight[:, None]
    return np.clip(left * np.float32(1 / 255), 0.0, 1.0)


class _Samples(NamedTuple):
    """For each place along an axis the two neighbours that it lies between, and how far towards the second."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


@lru_cache(maxsize=64)
def _samples(size: int, new_size: int) -> _Samples:
    # The scale is rounded to float32, and a place once after product and difference, as torch's kernels fuse them: at
    # the far end of a picture another order is beyond 1e-5 of a pixel's value.
    scale = np.float64(np.float32(size) / np.float32(new_size))
    places = np.maximum((scale * (np.arange(new_size) + 0.5) - 0.5).astype(np.float32), 0.0)
    first = np.minimum(places.astype(np.int64), size - 1)
    return _Samples(first, np.minimum(first + 1, size - 1), np.clip(places - first, 0.0, 1.0).astype(np.float32))


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
