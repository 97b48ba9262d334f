"""Requests through a policy, from the host and back; on a GPU as one captured graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vla_ros.execution.capture import GraphCapture
from vla_ros.execution.compiling import Compilation, as_written
from vla_ros.execution.staging import Bucket, StagingArea
from vla_ros.policies.base import BasePolicy, OnStage, tell_nobody, without_gradients
from vla_ros.transforms.sample import PolicyRequest

MAX_BUCKETS = 16
_Compute = Callable[[OnStage], Tensor]


@dataclass(frozen=True)
class Inference:
    """Actions float32 ``[horizon, action_dim]``, normalised; how long each stage and the whole took on the host, in ms.

    Stages are ``copy_in``, those of the policy (``prefix`` and ``suffix``, say) and ``copy_out``; a captured graph is
    one stage, ``graph``.
    """

    actions: np.ndarray
    timings_ms: Mapping[str, float]
    total_ms: float


class PolicyRunner:
    """One policy on one device. Every shape of request gets its own buffers, and on a GPU its own captured graph.

    To be used by one thread, the one that made it: a graph is replayed where it was captured. ``uncaptured`` has a line
    for each shape on a GPU that runs without a graph.
    """

    def __init__(self, policy: BasePolicy, device: torch.device, compilation: Compilation | None = None) -> None:
        """The policy is on ``device`` already; its weights are packed here. ``compilation`` is of its modules."""
        policy.eval().pack_weights()
        self._policy, self._device = policy, device
        with torch.no_grad():  # guided requests run so and use it too
            self._prepared = policy.prepare()
        self.uncaptured: list[str] = []
        self._compilation = compilation
        if device.type == "cuda":  # cuDNN's takes a kernel more, and faults are open of it with masks
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._capture = GraphCapture(device) if device.type == "cuda" else None
        self._buckets: dict[Bucket, tuple[StagingArea, _Compute]] = {}
        self._is_guidance_checked = False

    @property
    def trouble(self) -> str:
        """Why the policy couldn't answer now, where that is known; else empty."""
        return self._policy.trouble

    @property
    def not_compiled(self) -> str:
        """Why steps run as written although they should be compiled; else empty."""
        return "" if self._compilation is None else self._compilation.trouble

    @property
    def waits_for(self) -> str:
        """What each inference waits for besides the device; else empty."""
        return self._policy.waits_for

    def drop_prepared(self) -> None:
        """Give back the memory of weights that are read no more, for what was made of them is there; the policy can be
        run by nobody else then."""
        for module in self._policy.prepares:
            module.to("meta")

    def close(self) -> None:
        """The policy is run no more."""
        self._policy.close()
        if self._compilation is not None:
            self._compilation.undo()

    def run(self, request: PolicyRequest) -> Inference:
        """The actions for one request. Raises ValueError where the policy cannot take it.

        Before the first request with guidance the gradients that it needs are compared with finite differences.
        """
        self._policy.check_request(request)
        watch = _StopWatch()
        staging, compute = self._staged(request)
        staging.load(request)
        watch.lap("copy_in")
        with without_gradients(request.is_guided):
            output = compute(watch.lap)
            actions = staging.fetch_sync(output)
        watch.lap("copy_out")
        return Inference(actions, watch.laps_ms, sum(watch.laps_ms.values()))

    def _staged(self, request: PolicyRequest) -> tuple[StagingArea, _Compute]:
        """The buffers of a request's shape, and what computes the actions from them."""
        bucket = Bucket.of(request)
        if bucket not in self._buckets:
            if len(self._buckets) >= MAX_BUCKETS:
                raise ValueError(
                    f"more than {MAX_BUCKETS} shapes of request have come; expected the few buckets of one processor: "
                    "restart the model node if the policy node's images or policy were changed"
                )
            staging = StagingArea(bucket, self._device)
            inputs = self._policy.unpack(staging.tensors, request.constants)
            compute: _Compute = partial(self._policy.sample, inputs, self._prepared)
            takes_gradients = request.is_guided and self._policy.guides_by_gradient
            if takes_gradients:  # a product through what is compiled can't be taken
                compute = as_written(compute)
            with without_gradients(request.is_guided):
                if request.is_guided and not self._is_guidance_checked:
                    staging.load(request)
                    as_written(self._policy.check_guidance_sync)(inputs, self._prepared)
                    self._is_guidance_checked = True
                if self._compilation is not None and not takes_gradients:
                    staging.load(request)
                    self._compilation.run_sync(partial(compute, tell_nobody))
                if self._capture is not None:
                    compute = self._captured_sync(self._capture, compute)
            self._buckets[bucket] = staging, compute
        return self._buckets[bucket]

    def _captured_sync(self, capture: GraphCapture, compute: _Compute) -> _Compute:
        try:
            replay = capture.capture_sync(partial(compute, tell_nobody))
        except RuntimeError as error:
            self.uncaptured.append(str(error))
            return compute

        def timed(on_stage: OnStage) -> Tensor:
            output = replay()
            on_stage("graph")
            return output

        return timed


class _StopWatch:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.laps_ms: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def lap(self, name: str) -> None:
        now_s = time.perf_counter()
        self.laps_ms[name] = 1e3 * (now_s - self._last_s)
        self._last_s = now_s
