"""Garbage on every topic of the link: refused with a reason, while the policy keeps driving as if it had not come."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from link_garbage import REQUESTS, RESULTS, Sample, damaged
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message
from ros_harness import wait_until
from std_msgs.msg import UInt8MultiArray

from vla_ros.ros import qos
from vla_ros.wire import REQUEST, check_kind, decode_result

# So far apart that real messages still get through: each topic keeps one.
PAUSE_S = 0.02


class Driven:
    """The graph while the policy drives, and one request with its result as they went over the link."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.probe = graph, graph.probe
        requests: list[bytes] = []
        results: list[bytes] = []
        kinds = {"request": UInt8MultiArray, "result": UInt8MultiArray, "status": DiagnosticStatus}
        self._publishers: dict[str, Publisher] = {}
        with ExitStack() as stack:
            for name, kind in kinds.items():
                publishing = self.probe.publishing(kind, f"vla_model/{name}", qos.COMMAND)
                self._publishers[name] = stack.enter_context(publishing)
            with (
                self.probe.hearing(UInt8MultiArray, "vla_model/request", partial(_keep, requests), 10),
                self.probe.hearing(UInt8MultiArray, "vla_model/result", partial(_keep, results), 10),
            ):
                self.probe.drive(2)
                self.sample = wait_until(lambda: _pair(requests, results), "a request and its result")
            self._parts = stack.pop_all()
        self.probe.modes.clear()

    def send(self, topic: str, garbage: UInt8MultiArray | DiagnosticStatus | bytes) -> None:
        """Bytes are taken for a serialized message, good or bad."""
        self._publishers[topic].publish(garbage)
        time.sleep(PAUSE_S)

    def assert_untouched(self) -> None:
        """The policy still drives, both nodes live, and every chunk that was followed is of an image of this robot."""
        wait_until(lambda: self.probe.modes, "a mode")
        assert set(self.probe.modes) == {"POLICY"}, self.graph.policy_node.log
        self.probe.chunks.clear()
        wait_until(lambda: len(self.probe.chunks) >= 3, "chunks")
        stamps_ns = [c.header.stamp.sec * 10**9 + c.header.stamp.nanosec for c in list(self.probe.chunks)]
        assert set(stamps_ns) <= set(self.probe.image_stamps_ns) and (np.diff(stamps_ns) > 0).all()
        assert set(self.probe.modes) == {"POLICY"}, self.graph.policy_node.log
        assert self.graph.policy_node.is_running and self.graph.model_node.is_running

    def close(self) -> None:
        self._parts.close()


def _keep(kept: list[bytes], msg: UInt8MultiArray) -> None:
    kept.append(bytes(msg.data))


def _pair(requests: list[bytes], results: list[bytes]) -> Sample | None:
    by_stamp = {int(check_kind(data, REQUEST)["stamp_ns"]): data for data in requests}
    pairs = [(by_stamp.get(decode_result(data).stamp_ns), data) for data in results]
    return next((Sample(request, result) for request, result in pairs if request is not None), None)


@pytest.fixture
def driven(graph) -> Iterator[Driven]:
    driven = Driven(graph)
    yield driven
    driven.close()


def test_no_request_made_of_garbage_keeps_the_model_from_answering_the_robots(driven):
    sample = driven.sample
    for garbage in chain((make(sample) for make in REQUESTS.values()), damaged(sample.request)):
        driven.send("request", UInt8MultiArray(data=garbage))
    wait_until(
        lambda: "request on '/vla_model/request' refused" in driven.probe.said("vla_model: inference"),
        "the reason",
        5.0,
    )
    driven.assert_untouched()


def test_no_result_made_of_garbage_reaches_the_robot(driven):
    sample = driven.sample
    for garbage in chain((make(sample) for make in RESULTS.values()), damaged(sample.result)):
        driven.send("result", UInt8MultiArray(data=garbage))
    driven.probe.wait_for_words("result on '/vla_model/result' refused")
    driven.assert_untouched()


def test_bytes_that_are_no_status_are_dropped(driven):
    values = [KeyValue(key="digest", value="0")]
    status = serialize_message(DiagnosticStatus(name="vla_model: inference", values=values))
    endless = b"\0\1\0\0" + b"\xff" * 64
    for garbage in (b"", b"\0\1", b"\0\1\0\0", endless, os.urandom(64), status[: len(status) // 2], status[:9]):
        driven.send("status", garbage)
    driven.assert_untouched()
