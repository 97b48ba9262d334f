"""The model node's worker: one thread that loads a policy and answers the newest request."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rclpy.node import Node

from vla_ros import topics
from vla_ros.execution.capture import free_device_memory
from vla_ros.execution.compiling import Compilation, keep_compiled
from vla_ros.execution.runner import PolicyRunner
from vla_ros.nodes.params import ModelNodeParams
from vla_ros.policies.base import PolicyUnavailable
from vla_ros.policies.directory import LoadedPolicy, find_device, load_policy
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.mailbox import Mail, Mailbox, send
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import INFERENCE, Problems
from vla_ros.ros.statistics import Distribution
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.units import MS_PER_NS
from vla_ros.wire import REQUEST, PolicyResult, decode_request, encode_result

NUM_WARM_UP_RUNS = 3
WORKER_NICENESS = 10


@dataclass(frozen=True)
class RunningPolicy:
    """``delay_ms`` is waited after each inference."""

    runner: PolicyRunner
    request_type: type[PolicyRequest]
    digest: str
    device: str
    delay_ms: float


def loader(params: ModelNodeParams, policy_dir: Path, warn: Callable[[str], object]) -> Callable[[], RunningPolicy]:
    """What loads the policy that the parameters ask for, and tells ``warn`` what is to be known about it.

    Raises ValueError for a device that isn't there.
    """
    device = find_device(params.device, "parameter device")
    torch.set_num_threads(params.num_threads)
    return partial(_load, params, policy_dir, device, warn)


def _load(
    params: ModelNodeParams, policy_dir: Path, device: torch.device, warn: Callable[[str], object]
) -> RunningPolicy:
    """Load and warm up: every shape of request has run, and on a GPU its graph is captured."""
    loaded = load_policy(policy_dir, device, _dtype(params.dtype, device), with_guidance=params.strategy == "rtc")
    for note in loaded.notes:
        warn(note)
    runner = PolicyRunner(loaded.policy, loaded.device, _compilation(params.compile, loaded))
    runner.drop_prepared()
    try:
        for request in loaded.warm_up_requests:
            for _ in range(NUM_WARM_UP_RUNS):
                runner.run(request)
    except ValueError:
        runner.close()
        raise
    # Else the collector walks through all of torch now and then, half a second in the middle of an inference. What was
    # loaded before this goes.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    request_type = loaded.processor.request_type
    return RunningPolicy(runner, request_type, loaded.digest, str(loaded.device), params.inference_delay_ms)


def _compilation(name: str, loaded: LoadedPolicy) -> Compilation | None:
    """On a CPU it is not: its products take most of the time, and compiling takes minutes there."""
    if name == "off" or loaded.device.type != "cuda" or not loaded.policy.repeated:
        return None
    keep_compiled()
    return Compilation(loaded.policy.repeated, next(loaded.policy.parameters()).dtype)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


class ModelWorker:
    """Answers the requests that come while it serves. Captured graphs belong to the thread that
    made them, so ``load`` is called in this one."""

    def __init__(self, owner: Node, load: Callable[[], RunningPolicy], problems: Problems, key: bytes = b"") -> None:
        self.timings_ms: dict[str, Distribution] = {INFERENCE: Distribution()}
        self._logger = owner.get_logger()
        self._load = load
        self._loading: Future[RunningPolicy] = Future()
        self._problems = problems
        self._role = Role(owner, "link")
        self._results = self._role.publisher(topics.RESULT.private)
        request = topics.REQUEST.private
        self._requests = Mailbox(self._role, request, REQUEST, problems, self._work, is_open=False, key=key)
        self._key = key

    def serve(self, is_serving: bool) -> None:
        """Take requests from now on, or drop them."""
        self._requests.is_open = is_serving

    def start_sync(self) -> RunningPolicy:
        """Load and start; raises what loading raised."""
        self._role.start()
        self._requests.start()
        return self._loading.result()

    def stop(self) -> None:
        """Returns when the inference in progress has ended, and gives back the memory that the policy had."""
        if self._loading.done() and self._loading.exception() is None:
            self._loading.result().runner.close()  # first: an inference that waits for a server ends by it
        self._requests.stop()
        self._role.stop()
        self._loading = Future()  # it holds the policy
        gc.unfreeze()
        free_device_memory()  # else other programs would not get it

    def _work(self) -> None:
        # On CPU an inference fills a core for long: whoever receives images and commands there goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)
        try:
            policy = self._load()
        except BaseException as error:
            self._loading.set_exception(error)
            return
        self._loading.set_result(policy)
        for mail in self._requests:
            assert mail is not None, "nobody rings without a request"
            try:
                self._answer(policy, mail)
            except PolicyUnavailable as error:
                self._problems.report(INFERENCE, str(error))
            except ValueError as error:
                self._requests.refuse(error)
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                why = " ".join(str(error).split())[:200]
                self._problems.report(INFERENCE, f"out of GPU memory, another program may hold it: {why}")
            except Exception as error:  # the thread must outlive it; the policy node times out and holds
                self._logger.error(traceback.format_exc())
                self._problems.report(INFERENCE, f"inference failed, its traceback is in the log: {error!r}")

    def _answer(self, policy: RunningPolicy, mail: Mail) -> None:
        queue_ms = (steady_now_ns() - mail.arrived_ns) * MS_PER_NS
        message = decode_request(mail.data)
        request = policy.request_type.from_tensors(message.tensors, message.metadata)
        inference = policy.runner.run(request)
        time.sleep(1e-3 * policy.delay_ms)
        timings_ms = {"queue": queue_ms, **inference.timings_ms, "delay": policy.delay_ms}
        result = PolicyResult(request.stamp_ns, policy.digest, inference.actions, inference.total_ms, timings_ms)
        send(self._results, encode_result(result), self._key)
        self.timings_ms[INFERENCE].add(inference.total_ms)
        for name, value_ms in timings_ms.items():
            self.timings_ms.setdefault(name, Distribution()).add(value_ms)
