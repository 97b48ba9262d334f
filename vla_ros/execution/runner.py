"""Requests through a policy: the prefix once, the suffix for every step; on a GPU as one captured graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_ros.execution.staging import Bucket, StagingArea
from vla_ros.policies.base import BasePolicy
from vla_ros.transforms.sample import PolicyRequest

NUM_RUNS_BEFORE_CAPTURE = 3
MAX_BUCKETS = 16


@dataclass(frozen=True)
class Inference:
    """Actions float32 ``[horizon, action_dim]``, normalised; how long each stage and the whole took on the host, in ms.

    Stages are ``stage``, ``prefix``, ``suffix`` and ``fetch``; a captured graph is one stage, ``graph``.
    """

    actions: np.ndarray
    timings_ms: Mapping[str, float]
    total_ms: float


class PolicyRunner:
    """One policy on one device. Every shape of request gets its own buffers, and on a GPU its own captured graph."""

    def __init__(self, policy: BasePolicy, device: torch.device, num_steps: int, action_shape: tuple[int, int]) -> None:
        """``num_steps`` Euler steps; ``action_shape`` is (horizon, action_dim). The policy is on ``device`` already."""
        self._policy = policy.eval()
        self._policy.pack_weights()
        self._device = device
        self._num_steps = num_steps
        self._action_shape = action_shape
        with torch.inference_mode():
            self._time_grid = policy.make_time_grid(num_steps)
        self._buckets: dict[Bucket, _BucketRun] = {}

    def run(self, request: PolicyRequest) -> Inference:
        """The actions for one request. Raises ValueError where the policy cannot take it."""
        if request.noise.shape != self._action_shape:
            raise ValueError(
                f"request has noise of shape {request.noise.shape}; the loaded policy expects {self._action_shape}: "
                "give both nodes the same policy directory"
            )
        watch = _StopWatch()
        bucket_run = self._bucket_run(Bucket.of(request))
        bucket_run.staging.load(request)
        watch.lap("stage")
        with torch.inference_mode():
            output = bucket_run.compute(watch)
            actions = bucket_run.staging.fetch_sync(output)
        watch.lap("fetch")
        return Inference(actions, watch.laps_ms, sum(watch.laps_ms.values()))

    def _bucket_run(self, bucket: Bucket) -> _BucketRun:
        if bucket not in self._buckets:
            if len(self._buckets) >= MAX_BUCKETS:
                raise ValueError(
                    f"more than {MAX_BUCKETS} shapes of request have come; expected the few buckets of one processor: "
                    "restart the model node if the policy node's images or policy were changed"
                )
            staging = StagingArea(bucket, self._device)
            if self._device.type == "cuda":
                self._buckets[bucket] = _BucketRun(staging, self._captured(staging))
            else:
                self._buckets[bucket] = _BucketRun(staging, lambda watch: self._compute(staging, watch))
        return self._buckets[bucket]

    def _compute(self, staging: StagingArea, watch: _StopWatch) -> Tensor:
        suffix_input = self._policy.prepare_suffix(self._policy.encode_prefix(staging.observation), self._time_grid)
        watch.lap("prefix")
        actions = staging.noise[:, None]
        for step in range(self._num_steps):
            velocity = self._policy.predict_suffix(staging.observation.state, suffix_input, actions, step)
            actions = actions - velocity / self._num_steps
        watch.lap("suffix")
        return actions[:, 0]

    @torch.inference_mode()
    def _captured(self, staging: StagingArea) -> Callable[[_StopWatch], Tensor]:
        """The same computation recorded once; a replay reads the staging area's memory and writes the same output."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(NUM_RUNS_BEFORE_CAPTURE):
                self._compute(staging, _StopWatch())
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._compute(staging, _StopWatch())

        def replay(watch: _StopWatch) -> Tensor:
            graph.replay()
            watch.lap("graph")
            return output

        return replay


@dataclass(frozen=True)
class _BucketRun:
    staging: StagingArea
    compute: Callable[[_StopWatch], Tensor]


class _StopWatch:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.laps_ms: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def lap(self, name: str) -> None:
        now_s = time.perf_counter()
        self.laps_ms[name] = 1e3 * (now_s - self._last_s)
        self._last_s = now_s
