"""Faults, one after the other, injected into real nodes: each ends in HOLD, by its name; the fixture judges limits."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import NodeProcess, Probe, assert_within_limits, wait_for_words, wait_until

from vla_ros.nodes import qos
from vla_ros.robot import load_robot
from vla_ros.wire import PolicyResult, decode_request, encode_result

ROBOT_FILE = Path(__file__).parents[1] / "data" / "three_joints.yaml"
NAN = float("nan")


class FakeModel:
    """Answers requests in the model node's place, rightly or as ``spoil`` has it."""

    def __init__(self, probe: Probe, digest: str) -> None:
        from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
        from std_msgs.msg import UInt8MultiArray

        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
        self.is_silent = self.is_dead = False
        self.trouble = ""
        self._digest, self._message = digest, UInt8MultiArray
        self._node = node = probe.node
        self._results = node.create_publisher(UInt8MultiArray, "vla_model/result", qos.LINK)
        self._status = node.create_publisher(DiagnosticStatus, "vla_model/status", qos.LINK)
        self._requests = node.create_subscription(UInt8MultiArray, "vla_model/request", self._on_request, qos.LINK)
        values = [KeyValue(key="digest", value=digest)]
        self._beat = DiagnosticStatus(level=b"\0", name="vla_model: inference", message="active", values=values)
        self._timer = node.create_timer(0.1, self._on_timer)

    def close(self) -> None:
        for destroy, what in (
            (self._node.destroy_timer, self._timer),
            (self._node.destroy_subscription, self._requests),
            (self._node.destroy_publisher, self._results),
            (self._node.destroy_publisher, self._status),
        ):
            destroy(what)

    def _on_timer(self) -> None:
        self._beat.level, self._beat.message = (b"\1", self.trouble) if self.trouble else (b"\0", "active")
        if not self.is_dead:
            self._status.publish(self._beat)

    def _on_request(self, msg: Any) -> None:
        if self.is_silent or self.is_dead:
            return
        message = decode_request(bytes(msg.data))
        actions = self.spoil(0.2 * message.tensors["noise"])
        result = PolicyResult(int(message.metadata["stamp_ns"]), self._digest, actions, 1.0, {})
        self._results.publish(self._message(data=encode_result(result)))


class Rig:
    def __init__(self, probe: Probe, model: FakeModel) -> None:
        self.probe, self.model = probe, model

    def drive(self) -> None:
        self.probe.reset()
        self.model.spoil, self.model.is_silent, self.model.is_dead = (lambda actions: actions), False, False
        self.model.trouble = ""
        self.probe.say("touch the red block")
        self.probe.engage()
        wait_until(lambda: self.probe.chunks and self.probe.mode() == "POLICY", "a chunk")


@pytest.fixture(scope="module")
def rig(ros: None, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    from vla_ros.policies.processor import digest_of

    probe = Probe(load_robot(ROBOT_FILE), namespace="faults")
    model = FakeModel(probe, digest_of(policy_dir))
    parameters = {"policy": policy_dir, "robot": ROBOT_FILE, "autostart": "true", "result_timeout_s": 0.5}
    log = tmp_path_factory.mktemp("faults") / "policy_node.log"
    node = NodeProcess("policy_node", log, parameters, namespace="faults")
    try:
        wait_until(lambda: probe.commands, "the first command", 120.0)
        yield Rig(probe, model)
    finally:
        code = node.stop(signal.SIGINT)
        model.close()
        probe.close()
    assert code == 0, node.log
    assert_within_limits(probe)


def of_another_size(actions: np.ndarray) -> np.ndarray:
    return actions[:, :2]


def too_few(actions: np.ndarray) -> np.ndarray:
    return actions[:3]


FAULTS: dict[str, tuple[Callable[[Rig], None], str]] = {
    "a camera falls silent": (lambda rig: rig.probe.silent.add("top"), "camera 'top' is"),
    "joint states fall silent": (lambda rig: rig.probe.silent.add("joints"), "joint state on"),
    "an image has another size": (lambda rig: setattr(rig.probe, "image_size", (8, 8)), "image of 8x8"),
    "an image has another encoding": (lambda rig: setattr(rig.probe, "encoding", "bayer_rggb8"), "bayer_rggb8"),
    "a joint is missing": (lambda rig: rig.probe.joint_names.pop(), "lacks joint 'wrist'"),
    "the model falls silent": (lambda rig: setattr(rig.model, "is_silent", True), "no result came"),
    "the model node is gone": (lambda rig: setattr(rig.model, "is_dead", True), "vla_model"),
    "the model is out of memory": (lambda rig: setattr(rig.model, "trouble", "out of GPU memory"), "out of GPU memory"),
    "actions are not finite": (lambda rig: setattr(rig.model, "spoil", lambda a: a * NAN), "not finite"),
    "actions have another width": (lambda rig: setattr(rig.model, "spoil", of_another_size), "shape"),
    "a chunk is too short": (lambda rig: setattr(rig.model, "spoil", too_few), "shape"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_ends_in_hold_and_is_named(rig, fault):
    inject, named = FAULTS[fault]
    rig.drive()
    inject(rig)
    wait_until(lambda: rig.probe.mode() == "HOLD", "HOLD")
    wait_until(lambda: not any(rig.probe.commands[-1].points[0].velocities), "rest")
    wait_for_words(rig, named)
    held = rig.probe.commands[-1].points[0].positions
    time.sleep(0.3)
    assert rig.probe.commands[-1].points[0].positions == held, "one fixed command"


def test_actions_far_outside_the_limits_are_bounded_and_reported(rig):
    rig.drive()
    rig.model.spoil = lambda actions: actions * 1e3
    rig.probe.chunks.clear()
    wait_until(lambda: len(rig.probe.chunks) >= 5, "chunks")
    wait_for_words(rig, "bounded_commands", "joint '")
