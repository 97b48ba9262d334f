"""The policy node's end of the link: observations go out as requests, results come back as chunks.

One worker thread does both, so that the processor never runs in a ROS callback or in the ticker.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from vla_ros import topics
from vla_ros.observing.freshness import Fault
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.mailbox import Mail, Mailbox, send
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.ros.rivals import Rivals
from vla_ros.ros.statistics import STAGES, Distribution
from vla_ros.runtime.asking import Asking, digest_refusal
from vla_ros.runtime.loop import ControlLoop
from vla_ros.runtime.policy_driver import MAX_OUTSTANDING
from vla_ros.types import Answer
from vla_ros.units import MS_PER_NS, NS_PER_S
from vla_ros.wire import RESULT, PolicyResult, decode_result, encode_request

if TYPE_CHECKING:
    from vla_ros.policies.processor import PolicyProcessor


class ModelLink:
    """Keeps the model busy while a loop wants chunks; every call of the loop is made under ``lock``."""

    def __init__(
        self,
        owner: Node,
        processor: PolicyProcessor,
        lock: threading.Lock,
        problems: Problems,
        on_chunk: Callable[[Answer], None],
        model_timeout_s: float,
        key: bytes = b"",
    ) -> None:
        self.stages_ms: dict[str, Distribution] = {stage: Distribution() for stage in STAGES}
        self._logger = owner.get_logger()
        self._processor = processor
        self._lock = lock
        self._problems = problems
        self._on_chunk = on_chunk
        self._model_timeout_s = model_timeout_s
        self._key = key
        self._asking: Asking | None = None
        self._published_ns: dict[int, int] = {}
        self._status: DiagnosticStatus | None = None
        self._status_ns = 0
        self._role = Role(owner, "link")
        self._requests = self._role.publisher(topics.REQUEST)
        self._results = Mailbox(self._role, topics.RESULT, RESULT, problems, self._work, key=key)
        self._rivals = Rivals(owner, problems)
        self._role.subscribe(topics.STATUS, self._on_status, None, problems.refusing(topics.STATUS))

    def start(self) -> None:
        self._role.start()
        self._results.start()

    def stop(self) -> None:
        self._results.stop()
        self._role.stop()

    def attach(self, loop: ControlLoop) -> None:
        """Serve ``loop`` from now on."""
        self._asking = Asking(loop, self._processor, steady_now_ns, self._problems.report, self._lock)

    def detach(self) -> None:
        """Ask and take nothing until a loop is attached again."""
        self._asking = None

    def wake(self) -> None:
        """A frame has come, or the mode has changed: see whether a request is due."""
        self._results.ring()

    def fault(self) -> Fault | None:
        """Why the model node cannot serve this processor now."""
        status, name, topic = self._status, topics.MODEL_NODE, self._role.topic(topics.STATUS.name)
        if status is None:
            return Fault("model", f"{name} is not heard on '{topic}'; start it")
        if self._rivals.line:
            return Fault("model", self._rivals.line)
        age_s = (steady_now_ns() - self._status_ns) / NS_PER_S
        if age_s > self._model_timeout_s:
            limit = f"expected every {self._model_timeout_s:g} s at least"
            line = f"{name} is not heard on '{topic}' for {age_s:.2f} s; {limit}"
            return Fault("model", line, age_s, self._model_timeout_s)
        if status.level != DiagnosticStatus.OK:
            return Fault("model", f"{name}: {status.message}")
        digest = next((value.value for value in status.values if value.key == "digest"), "")
        refusal = digest_refusal(digest, self._processor.digest)
        return Fault("model", refusal) if refusal else None

    def _on_status(self, msg: DiagnosticStatus, info: Mapping[str, Any]) -> None:
        self._rivals.hear(topics.STATUS.name, info.get("publication_sequence_number"))
        self._status, self._status_ns = msg, steady_now_ns()

    def _work(self) -> None:
        for mail in self._results:
            asking = self._asking
            if asking is None:
                continue
            try:
                if mail is not None:
                    self._take(asking, mail)
                self._ask(asking)
            except Exception as error:  # the thread must outlive it: without it nothing is asked ever again
                self._logger.error(traceback.format_exc())
                asking.fail(f"processor failed, its traceback is in the log: {error!r}")

    def _ask(self, asking: Asking) -> None:
        question = asking.ask()
        if question is None:
            return
        data = encode_request(question.request)
        asked_ns, stamp_ns = question.asked.asked_ns, question.asked.observation.stamp_ns
        published_ns = steady_now_ns()
        newest = dict(list(self._published_ns.items())[1 - MAX_OUTSTANDING :])
        self._published_ns = {**newest, stamp_ns: published_ns}
        send(self._requests, data, self._key)
        self._add("stamp_age", asked_ns - stamp_ns)
        self._add("preprocessing", published_ns - asked_ns)

    def _take(self, asking: Asking, mail: Mail) -> None:
        try:
            result = decode_result(mail.data)
        except ValueError as error:
            return self._results.refuse(error)
        answer = asking.take(result.stamp_ns, result.digest, result.actions)
        if answer is not None:
            self._add_stages(result, self._published_ns[result.stamp_ns], mail.arrived_ns)
            self._on_chunk(answer)

    def _add_stages(self, result: PolicyResult, published_ns: int, arrived_ns: int) -> None:
        """Where the time of one chunk went; the link's is what nobody else had of its round trip."""
        self._add("switch", steady_now_ns() - arrived_ns)
        self.stages_ms["inference"].add(result.inference_ms)
        for name, value_ms in result.timings_ms.items():
            if name in self.stages_ms:
                self.stages_ms[name].add(value_ms)
        at_model_ms = result.inference_ms + sum(result.timings_ms.get(name, 0.0) for name in ("queue", "delay"))
        self.stages_ms["link"].add(max(0.0, (arrived_ns - published_ns) * MS_PER_NS - at_model_ms))

    def _add(self, stage: str, duration_ns: int) -> None:
        self.stages_ms[stage].add(duration_ns * MS_PER_NS)
