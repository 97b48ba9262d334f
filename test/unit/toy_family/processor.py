"""The host side of a toy policy: pictures as they are, and the letters of the instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.policies.processor import PolicyProcessor
from vla_ros.transforms.sample import PolicyRequest, RequestView

NUM_LETTERS = 24


@dataclass(frozen=True)
class ToyRequest(PolicyRequest):
    """``images`` uint8 [cameras, height, width, 3], ``letters`` int64 [NUM_LETTERS], ``state`` float32 [1, state]."""

    images: np.ndarray
    letters: np.ndarray
    state: np.ndarray

    def view(self) -> RequestView:
        images = tuple(image.reshape(-1, 3) for image in self.images)
        grid = ((1, *self.images.shape[1:3]),) * len(images)
        return RequestView(images, grid, self.state, np.zeros(0, np.float32), self.letters)


class ToyProcessor(PolicyProcessor):
    request_type = ToyRequest

    @property
    def camera_size(self) -> tuple[int, int]:
        return self.config.camera_height, self.config.camera_width

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> ToyRequest:
        wrong = [image.shape for image in images if image.shape != (*self.camera_size, 3)]
        if wrong:
            raise ValueError(f"image is {wrong[0]}; expected {(*self.camera_size, 3)}: set the camera's size")
        letters = np.zeros(NUM_LETTERS, np.int64)
        text = np.frombuffer(task.encode()[:NUM_LETTERS], np.uint8)
        letters[: len(text)] = text
        return ToyRequest(stamp_ns, np.stack(images), letters, state)
