"""A model node that is only topics, and does wrong what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from ros_harness import Probe
from std_msgs.msg import UInt8MultiArray

from vla_ros.ros import qos
from vla_ros.wire import PolicyResult, decode_request, encode_result


class FakeModel:
    """Answers requests in the model node's place, rightly or as ``spoil`` has it."""

    def __init__(self, probe: Probe, digest: str) -> None:
        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
        self.is_silent = self.is_dead = False
        self.trouble = ""
        self._digest = digest
        values = [KeyValue(key="digest", value=digest)]
        self._beat = DiagnosticStatus(level=b"\0", name="vla_model: inference", message="active", values=values)
        with ExitStack() as stack:
            self._results = stack.enter_context(probe.publishing(UInt8MultiArray, "vla_model/result", qos.COMMAND))
            self._status = stack.enter_context(probe.publishing(DiagnosticStatus, "vla_model/status", qos.COMMAND))
            stack.enter_context(probe.hearing(UInt8MultiArray, "vla_model/request", self._on_request, qos.COMMAND))
            timer = probe.do(probe.node.create_timer, 0.1, self._on_timer)
            stack.callback(probe.do, probe.node.destroy_timer, timer)
            self._parts = stack.pop_all()

    def close(self) -> None:
        self._parts.close()

    def _on_timer(self) -> None:
        self._beat.level, self._beat.message = (b"\1", self.trouble) if self.trouble else (b"\0", "active")
        if not self.is_dead:
            self._status.publish(self._beat)

    def _on_request(self, msg: UInt8MultiArray) -> None:
        if self.is_silent or self.is_dead:
            return
        message = decode_request(bytes(msg.data))
        actions = self.spoil(0.2 * message.tensors["noise"])
        result = PolicyResult(int(message.metadata["stamp_ns"]), self._digest, actions, 1.0, {})
        self._results.publish(UInt8MultiArray(data=encode_result(result)))
