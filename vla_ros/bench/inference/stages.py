"""The inference path taken apart, for timing: copy in, prefix, all steps of the suffix, copy out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vla_ros.audit.counting import Cost, count, count_step
from vla_ros.bench.inference.subject import Subject
from vla_ros.execution.staging import Bucket, StagingArea
from vla_ros.policies.modules.vlm_bridge.data_types import VLMOutputs

NUM_RUNS_BEFORE_CAPTURE = 3


class Stages:
    """The steps of ``PolicyRunner`` on buffers of its own, each to be called by itself; on a GPU as captured graphs.

    The subject's weights are packed already.
    """

    def __init__(self, subject: Subject, device: torch.device) -> None:
        self._policy, self._request, self._num_steps = subject.policy, subject.request, subject.config.num_steps
        self._staging = StagingArea(Bucket.of(subject.request), device)
        self._staging.load(subject.request)
        with torch.inference_mode():
            self._grid = self._policy.make_time_grid(self._num_steps)
            self._run_encode_prefix = replayable(self._encode_prefix, device)
            self._run_prefix = replayable(self._prefix, device)
            self._prepared = self._run_prefix()
            self._run_suffix = replayable(self._suffix, device)
            self._actions = self._run_suffix()

    @torch.inference_mode()
    def copy_in(self) -> None:
        self._staging.load(self._request)

    @torch.inference_mode()
    def encode_prefix(self) -> object:
        """The prefix without the expert's keys and values of it: as much as the backbone by itself does."""
        return self._run_encode_prefix()

    @torch.inference_mode()
    def prefix(self) -> object:
        return self._run_prefix()

    @torch.inference_mode()
    def suffix(self) -> object:
        return self._run_suffix()

    @torch.inference_mode()
    def copy_out(self) -> object:
        return self._staging.fetch_sync(self._actions)

    def prefix_cost(self) -> Cost:
        """The prefix, with keys and values for all steps."""
        return count(self._prefix, self._policy.parameters())

    def step_cost(self) -> Cost:
        """One denoising step."""
        with torch.no_grad():
            outputs = self._encode_prefix()
        return count_step(self._policy, outputs, self._staging.observation.state, self._staging.noise[:, None])

    def _encode_prefix(self) -> VLMOutputs:
        return self._policy.encode_prefix(self._staging.observation)

    def _prefix(self) -> object:
        return self._policy.prepare_suffix(self._encode_prefix(), self._grid)

    def _suffix(self) -> Tensor:
        return self._policy.denoise(self._staging.observation.state, self._prepared, self._staging.noise)


def replayable(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """``run``, or on a GPU the replay of a graph captured from it, which gives the same memory each time."""
    if device.type != "cuda":
        return run
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(NUM_RUNS_BEFORE_CAPTURE):
            run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> object:
        graph.replay()
        return result

    return replay
