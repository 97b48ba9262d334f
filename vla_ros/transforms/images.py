"""Image resizing, one way for the robot and for training."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 RGB [h, w, 3] to [height, width, 3], bicubic with antialiasing as Pillow does it."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
