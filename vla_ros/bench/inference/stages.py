"""The inference path taken apart, for timing: copy in, prefix, all steps of the suffix, copy out.

A policy that isn't made in these two stages is one stage, ``sample``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vla_ros.audit.counting import Cost, count, count_step
from vla_ros.bench.inference.subject import Subject
from vla_ros.execution.capture import GraphCapture
from vla_ros.execution.staging import Bucket, StagingArea
from vla_ros.policies.modules.flow_matching import FlowMatchingPolicy

ENCODE_PREFIX = "encode_prefix"


class Stages:
    """The steps of ``PolicyRunner`` on buffers of its own, each to be called by itself; on a GPU as captured graphs.

    ``runs`` has them by name, in their order. The subject's weights are packed already.
    """

    def __init__(self, subject: Subject, device: torch.device) -> None:
        self.policy, self._request = subject.policy, subject.request
        self._staging = StagingArea(Bucket.of(subject.request), device)
        self._staging.load(subject.request)
        self._inputs = self.policy.unpack(self._staging.tensors, subject.request.constants)
        with torch.inference_mode():
            self._prepared = self.policy.prepare()
            stages, self._actions = self._capture(device)
        calls = {"copy_in": lambda: self._staging.load(self._request)} | stages
        calls["copy_out"] = lambda: self._staging.fetch_sync(self._actions)
        self.runs = {name: torch.inference_mode()(call) for name, call in calls.items()}

    def cost(self) -> Cost:
        """What is done once for an inference: the prefix, with keys and values for all steps, or all of it."""
        run = self._prefix if isinstance(self.policy, FlowMatchingPolicy) else self._sample
        return count(run, self.policy.parameters())

    def step_cost(self) -> Cost | None:
        """One denoising step, of a policy that has any."""
        if not isinstance(self.policy, FlowMatchingPolicy):
            return None
        with torch.no_grad():
            outputs = self._encode_prefix()
        return count_step(self.policy, outputs, self._inputs.observation.state, self._inputs.noise[:, None])

    def _capture(self, device: torch.device) -> tuple[dict[str, Callable[[], object]], Tensor]:
        def capture(run: Callable[[], Any]) -> Callable[[], Any]:
            """In memory of its own, for what one graph writes another reads."""
            return GraphCapture(device).capture_sync(run) if device.type == "cuda" else run

        if not isinstance(self.policy, FlowMatchingPolicy):
            sample = capture(self._sample)
            return {"sample": sample}, sample()
        encode_prefix, prefix = capture(self._encode_prefix), capture(self._prefix)
        self._suffix_input = prefix()
        suffix = capture(self._suffix)
        return {ENCODE_PREFIX: encode_prefix, "prefix": prefix, "suffix": suffix}, suffix()

    def _sample(self) -> Tensor:
        return self.policy.sample(self._inputs, self._prepared)

    def _encode_prefix(self) -> object:
        """The prefix without the expert's keys and values of it: as much as the backbone by itself does."""
        return self.policy.encode_prefix(self._inputs.observation)

    def _prefix(self) -> object:
        return self.policy.prepare_suffix(self._encode_prefix(), self._prepared)

    def _suffix(self) -> Tensor:
        return self.policy.denoise(self._inputs.observation.state, self._suffix_input, self._inputs.noise)
