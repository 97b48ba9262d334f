"""Computations as CUDA graphs: one stream and one memory pool for all shapes of request of a runner."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vla_ros.strict import one_line

NUM_RUNS_BEFORE_CAPTURE = 3
# In normalised units; a replay gives the very numbers of the run before it, or something is wrong with the graph.
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}

Compute = Callable[[], Any]


class GraphCapture:
    """Records computations on one device. To be used by one thread: a graph is replayed where it was captured.

    Every output is copied out before the next replay, so that all graphs may share their memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._failed: list[torch.cuda.CUDAGraph] = []  # kept: to free one that failed can end the process

    def capture_sync(self, compute: Compute) -> Compute:
        """The same computation recorded once: a replay reads the same memory and writes the same output.

        Raises RuntimeError, in one line, where it can't be recorded or its replay gives another tensor; ``compute``
        runs as before then.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(NUM_RUNS_BEFORE_CAPTURE):
                expected = compute()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        expected = expected.clone() if isinstance(expected, Tensor) else None
        graph = torch.cuda.CUDAGraph()
        try:
            # Another thread may allocate meanwhile, for an image transport or a second policy: not an error here.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                output = compute()
            graph.replay()
            # At configure, where it may wait for the device.
            difference = 0.0 if expected is None else (output - expected).abs().max().item()
            if expected is not None and not difference <= MAX_DIFFERENCE[output.dtype]:
                raise RuntimeError(f"its replay is {difference:.3g} off what was recorded")
        except Exception as error:  # whatever it was: the same computation can still be run as it is
            self._failed.append(graph)
            raise RuntimeError(f"not captured as a CUDA graph: {one_line(error, 200)}") from error

        def replay() -> Any:
            graph.replay()
            return output

        return replay


def free_device_memory() -> None:
    """Give back what nobody holds, for other programs; cuBLAS's workspaces too, so no captured graph may be left."""
    gc.collect()
    if torch.cuda.is_available():
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
