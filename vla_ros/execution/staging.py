"""The one way of a request's arrays to the device, and of the actions back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_ros.transforms.sample import PolicyRequest

ALIGNMENT_BYTES = 256


@dataclass(frozen=True)
class Bucket:
    """What must be equal for two requests to share buffers and a captured graph: every shape, and what is constant."""

    shapes: tuple[tuple[str, str, tuple[int, ...]], ...]
    constants: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, request: PolicyRequest) -> Bucket:
        tensors = request.to_tensors()
        shapes = tuple((name, array.dtype.name, array.shape) for name, array in sorted(tensors.items()))
        return cls(shapes, tuple(sorted(request.constants.items())))


class StagingArea:
    """Buffers for one bucket: one copy in, one copy out. Next to a GPU the host's side is pinned.

    ``tensors`` are the request's with a batch dimension of 1: views of device memory that stay the same from request to
    request, as a captured graph needs them; on CPU they are the host's side itself.
    """

    def __init__(self, bucket: Bucket, device: torch.device) -> None:
        offsets = _offsets(bucket)
        self._is_pinned = device.type == "cuda"
        self._host = torch.zeros(offsets[-1], dtype=torch.uint8, pin_memory=self._is_pinned)
        self._device = self._host if device.type == "cpu" else torch.zeros_like(self._host, device=device)
        self._arrays = {name: view.numpy() for name, view in _views(self._host, bucket, offsets).items()}
        self.tensors = {name: view[None] for name, view in _views(self._device, bucket, offsets).items()}
        self._actions: Tensor | None = None

    def load(self, request: PolicyRequest) -> None:
        """Bring the request to the device; the copy is only started, in the current stream."""
        for name, array in request.to_tensors().items():
            np.copyto(self._arrays[name], array)
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)

    def fetch_sync(self, actions: Tensor) -> np.ndarray:
        """Actions ``[1, horizon, action]`` as float32 ``[horizon, action]`` on the host; waits for the device."""
        if self._actions is None:
            self._actions = torch.zeros(actions.shape[1:], dtype=torch.float32, pin_memory=self._is_pinned)
        self._actions.copy_(actions[0], non_blocking=True)
        if actions.device.type == "cuda":
            torch.cuda.current_stream(actions.device).synchronize()
        return self._actions.numpy().copy()


def _offsets(bucket: Bucket) -> list[int]:
    """Where each array begins in the one buffer, then the buffer's size in bytes."""
    offsets = [0]
    for _, dtype, shape in bucket.shapes:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        offsets.append(offsets[-1] + -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    return offsets


def _views(buffer: Tensor, bucket: Bucket, offsets: list[int]) -> dict[str, Tensor]:
    views = {}
    for (name, dtype, shape), offset in zip(bucket.shapes, offsets, strict=False):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        views[name] = buffer[offset : offset + size].view(getattr(torch, dtype)).view(shape)
    return views
