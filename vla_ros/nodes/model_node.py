"""``vla_model``: one policy on one device. Requests in, actions out; knows nothing of robots."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from array import array
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import UInt8MultiArray

from vla_ros.execution.capture import free_device_memory
from vla_ros.execution.runner import PolicyRunner
from vla_ros.nodes.params import ModelNodeParams, declare_model_params, read_model_params
from vla_ros.policies.directory import load_policy
from vla_ros.ros import qos
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.managed import ManagedNode, Role, run_managed
from vla_ros.ros.problems import Problems
from vla_ros.ros.reports import diagnostics, distribution_values, full_name, status
from vla_ros.ros.statistics import Distribution
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.wire import REQUEST, PolicyResult, check_kind, decode_request, encode_result

STATUS_PERIOD_S = 0.1
DIAGNOSTICS_PERIOD_S = 1.0
NUM_WARM_UP_RUNS = 3
WORKER_NICENESS = 10
INFERENCE = "inference"


class ModelNode(ManagedNode):
    """Exists from the first moment, so that it can say what is wrong; has a policy from *configure* on."""

    def __init__(self) -> None:
        super().__init__("vla_model")
        declare_model_params(self)
        self._problems = Problems(self.get_logger())
        self._worker: _Worker | None = None
        self._digest = ""
        self._device = ""
        self._status_publisher = self.create_publisher(DiagnosticStatus, "~/status", qos.LINK)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self.create_steady_timer(STATUS_PERIOD_S, self._publish_status)
        self.create_steady_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def configure(self) -> None:
        params = read_model_params(self)
        device = _device(params.device)
        torch.set_num_threads(params.num_threads)
        self._worker = _Worker(self, lambda: _load(params, device), self._problems)
        self._digest, self._device = self._worker.start_sync(), str(device)

    def activate(self) -> None:
        assert self._worker is not None
        self._worker.is_serving = True

    def deactivate(self) -> None:
        if self._worker is not None:
            self._worker.is_serving = False

    def cleanup(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            gc.unfreeze()
            free_device_memory()  # else other programs would not get what the policy had
        self._digest = self._device = ""

    def _status(self, with_timings: bool) -> DiagnosticStatus:
        problems = self._problems.current()
        if self.failure:
            level, message = DiagnosticStatus.ERROR, self.failure
        elif not self.is_active:
            level, message = DiagnosticStatus.WARN, "configured, not active"
        else:
            # Where an inference failed, no result comes: the policy node need not wait for one.
            level = DiagnosticStatus.WARN if INFERENCE in problems else DiagnosticStatus.OK
            message = "; ".join(["active", *problems.values()])
        values = {"digest": self._digest, "device": self._device}
        if with_timings and self._worker is not None:
            for name, distribution in self._worker.timings_ms.copy().items():
                values |= distribution_values(f"{name}_ms", distribution)
        return status(f"{full_name(self)}: inference", level, message, values)

    def _publish_status(self) -> None:
        self._status_publisher.publish(self._status(with_timings=False))

    def _publish_diagnostics(self) -> None:
        stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(diagnostics(stamp, [self._status(with_timings=True)]))


@dataclass(frozen=True)
class _Loaded:
    runner: PolicyRunner
    request_type: type[PolicyRequest]
    digest: str
    delay_ms: float


def _load(params: ModelNodeParams, device: torch.device) -> _Loaded:
    """Load and warm up: every shape of request has run, and on a GPU its graph is captured."""
    loaded = load_policy(
        params.policy_dir, device, _dtype(params.dtype, device), with_guidance=params.strategy == "rtc"
    )
    runner = PolicyRunner(loaded.policy, device)
    for request in loaded.warm_up_requests:
        for _ in range(NUM_WARM_UP_RUNS):
            runner.run(request)
    # Else the collector walks through all of torch now and then, half a second in the middle of an inference.
    gc.collect()
    gc.freeze()
    return _Loaded(runner, loaded.processor.request_type, loaded.digest, params.inference_delay_ms)


class _Worker:
    """One thread that loads a policy and runs the newest request, and a role that receives them; an older one waiting
    is dropped. Captured graphs belong to that thread, so it loads too."""

    def __init__(self, owner: ModelNode, load: Callable[[], _Loaded], problems: Problems) -> None:
        self.is_serving = False
        self.timings_ms: dict[str, Distribution] = {"inference": Distribution()}
        self._logger = owner.get_logger()
        self._load = load
        self._loading: Future[str] = Future()
        self._problems = problems
        self._request: bytes | None = None
        self._request_ns = 0
        self._is_stopping = False
        self._wake = threading.Condition()
        self._role = Role(owner, "link")
        self._results = self._role.node.create_publisher(UInt8MultiArray, self._role.topic("~/result"), qos.LINK)
        self._role.node.create_subscription(UInt8MultiArray, self._role.topic("~/request"), self._on_request, qos.LINK)
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start_sync(self) -> str:
        """Load and start; returns the policy's digest, or raises what loading raised."""
        self._role.start()
        self._thread.start()
        return self._loading.result()

    def stop(self) -> None:
        """Returns when the inference in progress has ended."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        self._thread.join()
        self._role.stop()

    def _on_request(self, msg: UInt8MultiArray) -> None:
        if not self.is_serving:
            return
        data = bytes(msg.data)
        try:
            check_kind(data, REQUEST)  # or garbage would displace a request that still waits for the worker
        except ValueError as error:
            return self._problems.report("request", f"request refused: {error}")
        with self._wake:
            self._request, self._request_ns = data, steady_now_ns()
            self._wake.notify()

    def _work(self) -> None:
        # On CPU an inference fills a core for long: whoever receives images and commands there goes first.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)
        try:
            loaded = self._load()
        except BaseException as error:
            self._loading.set_exception(error)
            return
        self._loading.set_result(loaded.digest)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._request is not None or self._is_stopping)
                if self._is_stopping:
                    return
                data, self._request = self._request, None
                queue_ms = (steady_now_ns() - self._request_ns) * 1e-6
            try:
                self._answer(loaded, data, queue_ms)
            except ValueError as error:
                self._problems.report("request", f"request refused: {error}")
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                why = " ".join(str(error).split())[:200]
                self._problems.report(INFERENCE, f"out of GPU memory, another program may hold it: {why}")
            except Exception as error:  # the thread must outlive it; the policy node times out and holds
                self._logger.error(traceback.format_exc())
                self._problems.report(INFERENCE, f"inference failed, its traceback is in the log: {error!r}")

    def _answer(self, loaded: _Loaded, data: bytes, queue_ms: float) -> None:
        message = decode_request(data)
        request = loaded.request_type.from_tensors(message.tensors, message.metadata)
        inference = loaded.runner.run(request)
        time.sleep(1e-3 * loaded.delay_ms)
        timings_ms = {"queue": queue_ms, **inference.timings_ms, "delay": loaded.delay_ms}
        result = PolicyResult(request.stamp_ns, loaded.digest, inference.actions, inference.total_ms, timings_ms)
        payload = array("B")
        payload.frombytes(encode_result(result))
        self._results.publish(UInt8MultiArray(data=payload))
        self.timings_ms["inference"].add(inference.total_ms)
        for name, value_ms in timings_ms.items():
            self.timings_ms.setdefault(name, Distribution()).add(value_ms)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("parameter device is 'cuda' and torch sees no GPU; give cpu or auto, or install CUDA torch")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_managed(ModelNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
