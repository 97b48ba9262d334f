"""With a key that both nodes share nobody else is believed on the link; without, or with another, nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ros_harness import wait_until
from std_msgs.msg import UInt8MultiArray

from vla_ros.policies.files import digest_of
from vla_ros.ros import qos
from vla_ros.wire import PolicyResult, encode_result

NODES = ("vla_policy", "vla_model")


@contextmanager
def keys(graph, **files: Path | None) -> Iterator[None]:
    """Both nodes configured and active with these key files, and without any afterwards."""

    def configure(values: dict[str, str]) -> None:
        for node in NODES:
            graph.bring(node, "inactive")
            assert graph.probe.change_state(node, "cleanup")
            graph.probe.set_text(node, "link_key_file", values.get(node, ""))
            graph.bring(node, "active")

    configure({node: str(file) for node, file in files.items() if file is not None})
    graph.probe.chunks.clear()
    yield
    configure({})


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef" * 4)
    return file


def test_nodes_of_one_key_work_and_one_that_answers_without_it_is_ignored_and_named(graph, key: Path) -> None:
    with keys(graph, vla_policy=key, vla_model=key):
        graph.probe.drive(3)
        result = PolicyResult(1, digest_of(graph.policy_dir), np.zeros((4, 3), np.float32), 1.0, {})
        told = "result on '/vla_model/result' refused: message is not signed"
        control = "vla_policy: control"
        data = UInt8MultiArray(data=encode_result(result))
        with graph.probe.publishing(UInt8MultiArray, "vla_model/result", qos.COMMAND) as liar:
            wait_until(lambda: liar.publish(data) or told in graph.probe.said(control), told)
            assert graph.probe.mode() == "POLICY"


def test_a_model_node_with_another_key_gets_no_request_and_says_so(graph, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("f" * 64)
    with keys(graph, vla_policy=key, vla_model=other):
        graph.probe.engage()
        line = "request on '/vla_model/request' refused: message is signed with another key"
        wait_until(lambda: line in graph.probe.said("vla_model: inference"), "why nothing is answered")
        assert not graph.probe.chunks
