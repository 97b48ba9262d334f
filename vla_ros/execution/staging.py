"""The one way of a request's arrays to the device, and of the actions back."""

from __future__ import annotations

import math
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
        self._is_pinned = device.type == "cuda"
        self._host = torch.zeros(sum(map(_num_aligned, bucket.shapes)), dtype=torch.uint8, pin_memory=self._is_pinned)
        self._device = self._host if device.type == "cpu" else torch.zeros_like(self._host, device=device)
        self._arrays = {name: view.numpy() for name, view in _views(self._host, bucket).items()}
        self.tensors = {name: view[None] for name, view in _views(self._device, bucket).items()}
        self._actions: Tensor | None = None
        # A thread that waits for it sleeps: waiting for a stream spins, on a core that receives images and commands.
        self._fetched = torch.cuda.Event(blocking=True) if self._is_pinned else None

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
        if self._fetched is not None:
            self._fetched.record(torch.cuda.current_stream(actions.device))
            self._fetched.synchronize()
        return self._actions.numpy().copy()


def _views(buffer: Tensor, bucket: Bucket) -> dict[str, Tensor]:
    views, places = {}, buffer.split([_num_aligned(array) for array in bucket.shapes])
    for (name, dtype, shape), place in zip(bucket.shapes, places, strict=True):
        kind = getattr(torch, dtype)
        views[name] = place[: math.prod(shape) * kind.itemsize].view(kind).view(shape)
    return views


def _num_aligned(array: tuple[str, str, tuple[int, ...]]) -> int:
    """How many bytes of the buffer an array takes up."""
    _, dtype, shape = array
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
