"""Proof that no inference waits for the device: one ``sample_actions`` looked at from several sides, without a GPU.

accelerator  the published sizes on an accelerator without memory: any copy is seen, any value asked for stops it
host         real numbers through a tiny sibling of the policy on CPU: every value that is read
graph        the exported graph of that sibling, on the accelerator without memory
cuda         where there is a GPU: torch's own refusal to wait, at the published sizes

Each looks twice: at a plain request, and at a guided one of real-time chunking, which takes a vector-Jacobian product
through the expert (no graph of that can be exported), or holds frozen actions where the policy was trained with them.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from vla_ros.audit.accelerator import FakeAccelerator
from vla_ros.audit.graph import NO_GRAPH, graph_events
from vla_ros.audit.recorder import COPY_IN, COPY_OUT, WAIT, Event, Recorder, UnknownValue, is_caller, shown
from vla_ros.audit.tiny import shrink
from vla_ros.execution import staging as staging_module
from vla_ros.execution.runner import PolicyRunner
from vla_ros.execution.staging import Bucket, StagingArea
from vla_ros.policies.base import BasePolicy, PolicyObservation
from vla_ros.policies.fill import build_policy
from vla_ros.policies.guidance import Guidance, without_gradients
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.synthetic import image_size_of, synthetic_request
from vla_ros.transforms.sample import PolicyRequest

WEIGHTS_DTYPE = torch.bfloat16
NUM_TINY_TEXT_TOKENS = 12
NUM_GUIDED_STEPS = 2  # the operators of each step are the same, and without memory those of a product take long to show

Build = Callable[[PiConfig], BasePolicy]


@dataclass(frozen=True)
class PassReport:
    """What one look found. ``num_declared`` counts the copies of the input to the device and of the actions back, which
    are no events; a pass that isn't ``complete`` ended where a value was needed that doesn't exist."""

    name: str
    events: tuple[Event, ...]
    num_declared: int
    complete: bool
    seconds: float

    @property
    def num_waits(self) -> int:
        return sum(event.kind == WAIT for event in self.events)

    @property
    def num_transfers(self) -> int:
        return len(self.events) - self.num_waits


def audit(config: PiConfig, request: PolicyRequest, build: Build = build_policy) -> tuple[PassReport, ...]:
    """All passes that can be run here; ``request`` has the published sizes of ``config``.

    Meant for a process that does nothing else afterwards, see ``FakeAccelerator``.
    """
    tiny = shrink(config)
    num_cameras = len(request.policy_input.image_grid)
    tiny_request = synthetic_request(tiny, num_cameras, image_size_of(tiny), NUM_TINY_TEXT_TOKENS)
    passes: list[PassReport] = []
    few_steps = replace(config, num_steps=min(config.num_steps, NUM_GUIDED_STEPS))
    for sizes, full, small in ((config, request, tiny_request), (few_steps, guided(request), guided(tiny_request))):
        passes += [accelerator_pass(sizes, full, build), host_pass(tiny, small, build)]
        if not _is_guided(full) or config.max_frozen_actions:  # torch.export takes no vector-Jacobian product
            passes.append(graph_pass(tiny, small, build))
        if torch.cuda.is_available():
            passes.append(cuda_pass(sizes, full, build))
    return tuple(passes)


def guided(request: PolicyRequest) -> PolicyRequest:
    """The same request, drawn towards a chunk of zeros; its first actions are frozen."""
    weights = np.linspace(1.0, 0.0, len(request.noise), dtype=np.float32)
    return replace(request, previous_actions=np.zeros_like(request.noise), guidance_weights=weights)


def accelerator_pass(config: PiConfig, request: PolicyRequest, build: Build = build_policy) -> PassReport:
    """``sample_actions``, then the runner's way through its staging buffers; weights in the type they have on a GPU."""
    start_s = time.perf_counter()
    recorder, is_warm, complete = Recorder(), False, True
    with FakeAccelerator() as accelerator, _mode_of(request):
        policy = _build_without_memory(accelerator, build, config, WEIGHTS_DTYPE)
        policy.check_guidance_sync = lambda *_: None  # waits, but once, before the first guided inference
        tensors = _tensors(request, accelerator.device)
        try:
            with recorder:
                runner = PolicyRunner(policy, accelerator.device, config.num_steps)
                runner.run(request)
            recorder.events.clear()  # constants, made once for each device, and buffers, for each shape of request
            is_warm = True
            with recorder:
                _sample(policy, request, tensors, config.num_steps)
                runner.run(request)
        except UnknownValue:
            complete = False
    declared = _declared(recorder.events)
    others = [event for event in recorder.events if all(event is not copy for copy in declared)]
    found = tuple(event for event in others if is_warm or event.kind == WAIT)
    return PassReport(_name("accelerator", request), found, len(declared), complete, time.perf_counter() - start_s)


def host_pass(config: PiConfig, request: PolicyRequest, build: Build = build_policy) -> PassReport:
    """``sample_actions`` with random weights on CPU; a value that is read there would be waited for on a device."""
    start_s = time.perf_counter()
    policy = build(config).eval()
    policy.pack_weights()
    tensors = _tensors(request, torch.device("cpu"))
    with _mode_of(request):
        _sample(policy, request, tensors, num_steps=1)  # makes the constants
        with Recorder(host_stands_in=True) as recorder:
            _sample(policy, request, tensors, config.num_steps)
    return PassReport(_name("host", request), tuple(recorder.events), 0, True, time.perf_counter() - start_s)


def graph_pass(config: PiConfig, request: PolicyRequest, build: Build = build_policy) -> PassReport:
    """The exported graph of ``sample_actions``; where a value decides what runs there is none: what asked for it."""
    start_s = time.perf_counter()
    with FakeAccelerator(with_symbols=True) as accelerator, _mode_of(request):
        policy = _build_without_memory(accelerator, build, config, torch.float32)
        policy.pack_weights()
        tensors = _tensors(request, accelerator.device)
        try:
            with Recorder() as recorder:
                _sample(policy, request, tensors, num_steps=1)  # makes the constants
        except (UnknownValue, GuardOnDataDependentSymNode):
            waits = tuple(event for event in recorder.events if event.kind == WAIT)
            return PassReport(_name("graph", request), waits, 0, False, time.perf_counter() - start_s)
    events = graph_events(lambda inputs: _sample(policy, request, inputs, config.num_steps), tensors)
    complete = not any(event.operator.startswith(NO_GRAPH) for event in events)
    return PassReport(_name("graph", request), events, 0, complete, time.perf_counter() - start_s)


def cuda_pass(config: PiConfig, request: PolicyRequest, build: Build = build_policy) -> PassReport:
    """``sample_actions`` uncaptured, from staged input, where torch refuses to wait: it ends at the first wait."""
    start_s = time.perf_counter()
    device = torch.device("cuda")
    with device:
        policy = build(config).to(WEIGHTS_DTYPE).eval()
    policy.pack_weights()
    staging = StagingArea(Bucket.of(request), device)
    events: tuple[Event, ...] = ()
    with _mode_of(request):
        policy.sample_actions(staging.observation, 1, staging.noise, guidance=staging.guidance)  # makes the constants
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            staging.load(request)
            policy.sample_actions(staging.observation, config.num_steps, staging.noise, guidance=staging.guidance)
        except RuntimeError as error:
            if "synchronizing CUDA operation" not in str(error):
                raise
            events = (Event(WAIT, "synchronizing CUDA operation", *_raised_at(error)),)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return PassReport(_name("cuda", request), events, 1, not events, time.perf_counter() - start_s)


def _is_guided(request: PolicyRequest) -> bool:
    return request.previous_actions is not None


def _mode_of(request: PolicyRequest) -> AbstractContextManager[object]:
    return without_gradients(_is_guided(request))


def _name(name: str, request: PolicyRequest) -> str:
    return f"{name}_guided" if _is_guided(request) else name


def _build_without_memory(
    accelerator: FakeAccelerator, build: Build, config: PiConfig, dtype: torch.dtype
) -> BasePolicy:
    with torch.device("meta"):
        policy = build(config).to(dtype).eval()
    accelerator.place(policy)
    return policy


def _tensors(request: PolicyRequest, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array)[None].to(device) for name, array in request.to_tensors().items()}


def _sample(policy: BasePolicy, request: PolicyRequest, tensors: dict[str, Tensor], num_steps: int) -> Tensor:
    inputs = VLMInputs.from_tensors(tensors, request.policy_input.image_grid)
    guidance = None
    if "previous_actions" in tensors:
        guidance = Guidance(tensors["previous_actions"], tensors["guidance_weights"])
    observation = PolicyObservation(inputs, tensors["state"])
    return policy.sample_actions(observation, num_steps, tensors["noise"], guidance=guidance)


def _declared(events: list[Event]) -> list[Event]:
    """The first copy of each direction that the staging buffers make."""
    made = [event for event in events if event.file == shown(staging_module.__file__)]
    return [copy for kind in (COPY_IN, COPY_OUT) for copy in [event for event in made if event.kind == kind][:1]]


def _raised_at(error: BaseException) -> tuple[str, int]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_caller(frame.filename)]
    return shown(frames[-1].filename), frames[-1].lineno or 0
