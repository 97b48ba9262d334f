"""The policy node's end of the link: observations go out as requests, results come back as chunks.

One worker thread does both, so that the processor never runs in a ROS callback nor in the ticker.
"""

from __future__ import annotations

import threading
import traceback
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import UInt8MultiArray

from vla_ros.observing.freshness import Fault
from vla_ros.ros import qos
from vla_ros.ros.clock import NS_PER_S, steady_now_ns
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.ros.statistics import STAGES, Distribution
from vla_ros.runtime.loop import ControlLoop
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING
from vla_ros.types import Answer, Continuation, Observation
from vla_ros.wire import RESULT, PolicyResult, check_kind, decode_result, encode_request

if TYPE_CHECKING:
    from vla_ros.policies.processor import PolicyProcessor


@dataclass(frozen=True)
class _Sent:
    """When a request was begun and when it was published, ns."""

    asked_ns: int
    published_ns: int


class ModelLink:
    """Keeps the model busy while ``loop`` wants chunks; every call of ``loop`` is made under ``lock``."""

    def __init__(
        self,
        owner: Node,
        processor: PolicyProcessor,
        lock: threading.Lock,
        problems: Problems,
        on_chunk: Callable[[Answer], None],
        model_timeout_s: float,
    ) -> None:
        self.stages_ms: dict[str, Distribution] = {stage: Distribution() for stage in STAGES}
        self._logger = owner.get_logger()
        self._processor = processor
        self._lock = lock
        self._problems = problems
        self._on_chunk = on_chunk
        self._model_timeout_s = model_timeout_s
        self._loop: ControlLoop | None = None
        self._result: tuple[int, bytes] | None = None
        self._sent: dict[int, _Sent] = {}
        self._status: DiagnosticStatus | None = None
        self._status_ns = 0
        self._wake = threading.Condition()
        self._has_news = False
        self._is_stopping = False
        self._role = Role(owner, "link")
        node = self._role.node
        self._requests = node.create_publisher(UInt8MultiArray, self._role.topic("vla_model/request"), qos.LINK)
        node.create_subscription(UInt8MultiArray, self._role.topic("vla_model/result"), self._on_result, qos.LINK)
        node.create_subscription(DiagnosticStatus, self._role.topic("vla_model/status"), self._on_status, qos.LINK)
        self._worker = threading.Thread(target=self._work, name="processor", daemon=True)

    def start(self) -> None:
        self._role.start()
        self._worker.start()

    def stop(self) -> None:
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._worker.is_alive():
            self._worker.join()
        self._role.stop()

    def attach(self, loop: ControlLoop | None) -> None:
        """Serve ``loop`` from now on; None pauses."""
        self._loop = loop

    def wake(self) -> None:
        """A frame has come, or the mode has changed: see whether a request is due."""
        with self._wake:
            self._has_news = True
            self._wake.notify()

    def refusal(self) -> str:
        """Why the model node cannot serve this processor now, in one line; empty where it can."""
        fault = self.fault()
        return "" if fault is None else fault.line

    def fault(self) -> Fault | None:
        """What is wrong with the model node now."""
        status, topic = self._status, self._role.topic("vla_model/status")
        if status is None:
            return Fault("model", f"vla_model is not heard on '{topic}'; start it")
        age_s = (steady_now_ns() - self._status_ns) / NS_PER_S
        if age_s > self._model_timeout_s:
            limit = f"expected every {self._model_timeout_s:g} s at least"
            line = f"vla_model is not heard on '{topic}' for {age_s:.2f} s; {limit}"
            return Fault("model", line, age_s, self._model_timeout_s)
        refusal = self._status_refusal(status)
        return Fault("model", refusal) if refusal else None

    def _status_refusal(self, status: DiagnosticStatus) -> str:
        if status.level != DiagnosticStatus.OK:
            return f"vla_model: {status.message}"
        digest = next((value.value for value in status.values if value.key == "digest"), "")
        return self._digest_refusal(digest)

    def _digest_refusal(self, digest: str) -> str:
        if digest == self._processor.digest:
            return ""
        return (
            f"vla_model has loaded policy {digest[:12] or 'unknown'} and this processor belongs to "
            f"{self._processor.digest[:12]}; give both nodes the same policy directory"
        )

    def _on_result(self, msg: UInt8MultiArray) -> None:
        data = bytes(msg.data)
        try:
            check_kind(data, RESULT)  # or garbage would displace a result that still waits to be taken
        except ValueError as error:
            return self._problems.report("result", f"result on 'vla_model/result' refused: {error}")
        with self._wake:
            self._result = steady_now_ns(), data
            self._has_news = True
            self._wake.notify()

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self._status, self._status_ns = msg, steady_now_ns()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._has_news or self._is_stopping)
                if self._is_stopping:
                    return
                self._has_news = False
                result, self._result = self._result, None
            loop = self._loop
            if loop is None:
                continue
            try:
                if result is not None:
                    self._take(loop, result)
                self._ask(loop)
            except ValueError as error:
                self._fail(loop, f"processor: {error}")
            except Exception as error:  # the thread must outlive it: without it nothing is asked ever again
                self._logger.error(traceback.format_exc())
                self._fail(loop, f"processor failed, its traceback is in the log: {error!r}")

    def _ask(self, loop: ControlLoop) -> None:
        began_ns = steady_now_ns()
        with self._lock:
            observation = loop.begin_request(began_ns)
            if observation is None:
                return
            continuation = self._continuation(loop, observation)
        data = array("B")
        data.frombytes(encode_request(self._processor.process(observation, continuation)))
        published_ns = steady_now_ns()
        newest = dict(list(self._sent.items())[1 - MAX_OUTSTANDING :])
        self._sent = {**newest, observation.stamp_ns: _Sent(began_ns, published_ns)}
        self._requests.publish(UInt8MultiArray(data=data))
        self._add("stamp_age", began_ns - observation.stamp_ns)
        self._add("preprocessing", published_ns - began_ns)

    def _continuation(self, loop: ControlLoop, observation: Observation) -> Continuation | None:
        try:
            return loop.continuation(observation, self._processor.chunk_shape)
        except ValueError as error:
            self._problems.report("strategy", str(error))
            return None

    def _take(self, loop: ControlLoop, arrival: tuple[int, bytes]) -> None:
        arrived_ns, data = arrival
        try:
            result = decode_result(data)
        except ValueError as error:
            return self._problems.report("result", f"result on 'vla_model/result' refused: {error}")
        with self._lock:
            observation = loop.requested(result.stamp_ns)
        if observation is None:
            return
        mismatch = self._digest_refusal(result.digest)
        if mismatch:
            return self._fail(loop, mismatch)
        chunk = self._processor.decode(result.actions, observation)
        sent = self._sent.pop(result.stamp_ns)
        with self._lock:
            taken_ns = steady_now_ns()
            is_followed = loop.accept(chunk, taken_ns)
        if is_followed:
            self._add_stages(result, sent, arrived_ns)
            self._on_chunk(Answer(observation, chunk, sent.asked_ns, taken_ns))

    def _add_stages(self, result: PolicyResult, sent: _Sent, arrived_ns: int) -> None:
        """Where the time of one chunk went; the link's is what nobody else had of its round trip."""
        self._add("switch", steady_now_ns() - arrived_ns)
        self.stages_ms["inference"].add(result.inference_ms)
        for name, value_ms in result.timings_ms.items():
            if name in self.stages_ms:
                self.stages_ms[name].add(value_ms)
        at_model_ms = result.inference_ms + sum(result.timings_ms.get(name, 0.0) for name in ("queue", "delay"))
        self.stages_ms["link"].add(max(0.0, (arrived_ns - sent.published_ns) * 1e-6 - at_model_ms))

    def _add(self, stage: str, duration_ns: int) -> None:
        self.stages_ms[stage].add(duration_ns * 1e-6)

    def _fail(self, loop: ControlLoop, why: str) -> None:
        self._problems.report("policy", why)
        with self._lock:
            loop.fail_policy(why, steady_now_ns())
