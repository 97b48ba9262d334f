"""Proof that no inference waits for the device: one ``sample`` looked at from several sides, without a GPU.

accelerator  the published sizes on an accelerator without memory: any copy is seen, any value asked for stops it
host         real numbers through a tiny version of the policy on CPU: every value that is read
graph        the exported graph of that version, on the accelerator without memory
cuda         where there is a GPU: torch's own refusal to wait, at the published sizes

Each looks twice, where policies of the family continue chunks: at a plain request, and at a guided one, for which some
take a vector-Jacobian product through themselves (no graph of that can be exported).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from vla_ros.audit.accelerator import FakeAccelerator, place
from vla_ros.audit.graph import NO_GRAPH, graph_events
from vla_ros.audit.watch import COPY_IN, COPY_OUT, WAIT, DeviceEvent, UnknownValue, is_caller, shown, watched
from vla_ros.execution import staging as staging_module
from vla_ros.execution.runner import PolicyRunner
from vla_ros.execution.staging import Bucket, StagingArea
from vla_ros.policies.base import BasePolicy, batch_of_one, without_gradients
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.families import family_of
from vla_ros.policies.fill import build_on, build_policy
from vla_ros.transforms.sample import PolicyRequest

WEIGHTS_DTYPE = torch.bfloat16
NUM_GUIDED_STEPS = 2  # the operators of each step are the same, and without memory those of a product take long to show

Build = Callable[[PolicyConfig], BasePolicy]
Look = Callable[..., "PassReport"]


@dataclass(frozen=True)
class PassReport:
    """What one look found. ``num_declared`` counts the copies of the input to the device and of the actions back, which
    are no events; a pass that isn't ``complete`` ended where a value was needed that doesn't exist."""

    events: tuple[DeviceEvent, ...]
    num_declared: int = 0
    complete: bool = True
    name: str = ""
    seconds: float = 0.0

    @property
    def num_waits(self) -> int:
        return sum(event.kind == WAIT for event in self.events)

    @property
    def num_transfers(self) -> int:
        return len(self.events) - self.num_waits


def audit(config: PolicyConfig, request: PolicyRequest, build: Build = build_policy) -> tuple[PassReport, ...]:
    """All passes that can be run here; ``request`` has the published sizes of ``config``.

    Meant for a process that does nothing else afterwards, see ``FakeAccelerator``.
    """
    trials = family_of(config).make_trials()
    tiny, small_request = trials.shrink(config, request)
    with torch.device("meta"):
        takes_gradients = build(tiny).guides_by_gradient
    looks = [(config, request, small_request)]
    if family_of(config).processor_class().is_guidable:
        few_steps = trials.resize(config, config.action_horizon, NUM_GUIDED_STEPS)
        looks.append((few_steps, guided(config, request), guided(tiny, small_request)))
    passes: list[PassReport] = []
    for sizes, full, small in looks:
        passes += [accelerator_pass(sizes, full, build), host_pass(tiny, small, build)]
        if not full.is_guided or not takes_gradients:  # torch.export takes no vector-Jacobian product
            passes.append(graph_pass(tiny, small, build))
        if torch.cuda.is_available():
            passes.append(cuda_pass(sizes, full, build))
    return tuple(passes)


def guided(config: PolicyConfig, request: PolicyRequest) -> PolicyRequest:
    """The same request, drawn towards a chunk of zeros; its first actions are frozen."""
    zeros = np.zeros((config.action_horizon, config.action_dim), np.float32)
    weights = np.linspace(1.0, 0.0, config.action_horizon, dtype=np.float32)
    return replace(request, previous_actions=zeros, guidance_weights=weights)


def named_pass(look: Look) -> Look:
    """``look`` whose report says how it is called and how long it took."""

    @wraps(look)
    def timed(config: PolicyConfig, request: PolicyRequest, build: Build = build_policy) -> PassReport:
        start_s, name = time.perf_counter(), look.__name__.removesuffix("_pass")
        report = look(config, request, build)
        name = f"{name}_guided" if request.is_guided else name
        return replace(report, name=name, seconds=time.perf_counter() - start_s)

    return timed


@named_pass
def accelerator_pass(config: PolicyConfig, request: PolicyRequest, build: Build) -> PassReport:
    """``sample``, then the runner's way through its staging buffers; weights in the type they have on a GPU."""
    is_warm, complete = False, True
    with FakeAccelerator() as accelerator, without_gradients(request.is_guided):
        policy = _build_on(accelerator.device, build, config, WEIGHTS_DTYPE)
        policy.check_guidance_sync = lambda *_: None  # waits, but once, before the first guided inference
        tensors = batch_of_one(request, accelerator.device)
        try:
            with watched() as events:  # also constants, made once for each device, and buffers, for each shape
                runner = PolicyRunner(policy, accelerator.device)
                runner.run(request)
            is_warm = True
            with watched() as events:
                _sample(policy, request, tensors)
                runner.run(request)
        except UnknownValue:
            complete = False
    declared = _declared(events)
    others = [event for event in events if all(event is not copy for copy in declared)]
    return PassReport(tuple(event for event in others if is_warm or event.kind == WAIT), len(declared), complete)


@named_pass
def host_pass(config: PolicyConfig, request: PolicyRequest, build: Build) -> PassReport:
    """``sample`` with random weights on CPU; a value that is read there would be waited for on a device."""
    policy = build(config).eval()
    policy.pack_weights()
    tensors = batch_of_one(request)
    with without_gradients(request.is_guided):
        _sample(policy, request, tensors)  # makes the constants
        with watched(host_stands_in=True) as events:
            _sample(policy, request, tensors)
    return PassReport(tuple(events))


@named_pass
def graph_pass(config: PolicyConfig, request: PolicyRequest, build: Build) -> PassReport:
    """The exported graph of ``sample``; where a value decides what runs there is none: what asked for it."""
    with FakeAccelerator(with_symbols=True) as accelerator, without_gradients(request.is_guided):
        policy = _build_on(accelerator.device, build, config, torch.float32)
        policy.pack_weights()
        tensors = batch_of_one(request, accelerator.device)
        try:
            with watched() as seen:
                _sample(policy, request, tensors)  # makes the constants
        except (UnknownValue, GuardOnDataDependentSymNode):
            return PassReport(tuple(event for event in seen if event.kind == WAIT), complete=False)
    events = graph_events(lambda inputs: _sample(policy, request, inputs), tensors)
    return PassReport(events, complete=not any(event.operator.startswith(NO_GRAPH) for event in events))


@named_pass
def cuda_pass(config: PolicyConfig, request: PolicyRequest, build: Build) -> PassReport:
    """``sample`` uncaptured, from staged input, where torch refuses to wait: it ends at the first wait."""
    device = torch.device("cuda")
    policy = build_on(device, WEIGHTS_DTYPE, lambda: build(config)).to(WEIGHTS_DTYPE)
    policy.pack_weights()
    staging = StagingArea(Bucket.of(request), device)
    events: tuple[DeviceEvent, ...] = ()
    with without_gradients(request.is_guided):
        _sample(policy, request, staging.tensors)  # makes the constants
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            staging.load(request)
            _sample(policy, request, staging.tensors)
        except RuntimeError as error:
            if "synchronizing CUDA operation" not in str(error):
                raise
            events = (DeviceEvent(WAIT, "synchronizing CUDA operation", *_raised_at(error)),)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return PassReport(events, num_declared=1, complete=not events)


def _build_on(device: torch.device, build: Build, config: PolicyConfig, dtype: torch.dtype) -> BasePolicy:
    with torch.device("meta"):
        policy = build(config).to(dtype).eval()
    place(policy, device)
    return policy


def _sample(policy: BasePolicy, request: PolicyRequest, tensors: dict[str, Tensor]) -> Tensor:
    return policy.sample(policy.unpack(tensors, request.constants), policy.prepare())


def _declared(events: list[DeviceEvent]) -> list[DeviceEvent]:
    """The first copy of each direction that the staging buffers make."""
    made = [event for event in events if event.file == shown(staging_module.__file__)]
    return [copy for kind in (COPY_IN, COPY_OUT) for copy in [event for event in made if event.kind == kind][:1]]


def _raised_at(error: BaseException) -> tuple[str, int]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_caller(frame.filename)]
    return shown(frames[-1].filename), frames[-1].lineno or 0
