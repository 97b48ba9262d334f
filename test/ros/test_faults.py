"""Faults, one after the other, injected into real nodes: each ends in HOLD, by its name; the fixture judges limits."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_model import FakeModel
from ros_harness import START_PATIENCE_S, NodeProcess, Probe, assert_within_limits, wait_until
from waiting import becomes_true

from vla_ros.policies.files import digest_of
from vla_ros.robot import load_robot

ROBOT_FILE = Path(__file__).parents[1] / "data" / "three_joints.yaml"
CONTROL = "vla_policy: control"
NAN = float("nan")
AWAY_S = 0.3
NUM_HELD = 15
NAMED_S = 10.0


class Rig:
    def __init__(self, probe: Probe, model: FakeModel, node: NodeProcess) -> None:
        self.probe, self.model, self.node = probe, model, node

    def drive(self) -> None:
        """The policy drives, and nothing is said of any fault before."""
        self.probe.reset()
        self.model.spoil, self.model.is_silent, self.model.is_dead = (lambda actions: actions), False, False
        self.model.trouble = ""
        self.probe.say("touch the red block")
        self.probe.engage()
        try:
            wait_until(self._is_all_well, "a chunk, and diagnostics without a fault")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.probe.diagnostic(CONTROL)}\n{self.node.log[-2000:]}") from error

    def _is_all_well(self) -> bool:
        """A stage over its budget is no fault."""
        if self.probe.mode() == "HOLD":
            self.probe.engage()  # a busy machine may keep the control thread away before this test does
        status = self.probe.diagnostic(CONTROL)
        if status is None or not self.probe.chunks:
            return False
        faults = [value.key for value in status.values if value.key == "fault" or value.key.startswith("problem")]
        return status.message.startswith("POLICY: engaged") and "braking" not in status.message and not faults


@pytest.fixture(scope="module")
def rig(ros: None, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("faults")
    document = yaml.safe_load(ROBOT_FILE.read_text())
    document["watchdogs"] = {"overrun": "hold"}
    for camera in document["cameras"]:
        camera["max_frozen_s"] = 1.0
    robot_file = folder / "robot.yaml"
    robot_file.write_text(yaml.safe_dump(document))
    probe = Probe(load_robot(robot_file), namespace="faults")
    model = FakeModel(probe, digest_of(policy_dir))
    parameters = {"policy": policy_dir, "robot": robot_file, "autostart": "true"}
    parameters |= {"result_timeout_s": 1.0, "model_timeout_s": 0.5}
    node = NodeProcess("nodes.policy_node", folder / "policy_node.log", parameters, namespace="faults")
    try:
        wait_until(lambda: probe.commands, "the first command", START_PATIENCE_S)
        yield Rig(probe, model, node)
    finally:
        code = node.stop(signal.SIGINT)
        model.close()
        probe.close()
    assert code == 0, node.log
    assert_within_limits(probe)


def of_another_width(actions: np.ndarray) -> np.ndarray:
    return actions[:, :2]


def too_few(actions: np.ndarray) -> np.ndarray:
    return actions[:3]


def sticks(rig: Rig) -> None:
    """The arm stays where it is, and the policy wants it far away."""
    rig.probe.is_held = True
    rig.model.spoil = lambda actions: np.full_like(actions, 1e3)


def jumps(rig: Rig) -> None:
    rig.probe.is_held = True
    rig.probe.positions = rig.probe.positions + [-0.6 if rig.probe.positions[0] > 0 else 0.6, 0.0, 0.0]


FAULTS: dict[str, tuple[Callable[[Rig], None], str]] = {
    "a camera falls silent": (lambda rig: rig.probe.silent.add("top"), "camera 'top' is"),
    "a camera is frozen": (lambda rig: rig.probe.frozen.add("top"), "camera 'top' is frozen"),
    "joint states fall silent": (lambda rig: rig.probe.silent.add("joints"), "joint state on"),
    "the arm does not follow": (sticks, "max_tracking_error"),
    "joint states jump": (jumps, "jumped: joint 'base' by 0.60"),
    "an image has another size": (lambda rig: setattr(rig.probe, "image_size", (8, 8)), "image of 8x8"),
    "an image has another encoding": (lambda rig: setattr(rig.probe, "encoding", "bayer_rggb8"), "bayer_rggb8"),
    "a joint is missing": (lambda rig: rig.probe.joint_names.pop(), "wrist"),
    "the chunk is used up": (lambda rig: rig.probe.say(""), "the action chunk is used up"),
    "the control thread does not run": (lambda rig: rig.node.pause(AWAY_S), "the control thread did not run for"),
    "the model falls silent": (lambda rig: setattr(rig.model, "is_silent", True), "no result came"),
    "the model node is gone": (lambda rig: setattr(rig.model, "is_dead", True), "vla_model is not heard on"),
    "the model is out of memory": (lambda rig: setattr(rig.model, "trouble", "out of GPU memory"), "out of GPU memory"),
    "actions are not finite": (lambda rig: setattr(rig.model, "spoil", lambda a: a * NAN), "not finite"),
    "actions have another width": (lambda rig: setattr(rig.model, "spoil", of_another_width), "shape (4, 2)"),
    "a chunk is too short": (lambda rig: setattr(rig.model, "spoil", too_few), "shape (3, 3)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_ends_in_hold_and_is_named(rig: Rig, fault: str) -> None:
    inject, named = FAULTS[fault]

    probe = rig.probe

    def is_held() -> bool:
        return probe.mode() == "HOLD" and probe.says(named) and probe.is_at_rest(NUM_HELD)

    def is_ended() -> bool:
        """Tried again where a busy machine ends the drive before the fault does."""
        rig.drive()
        inject(rig)
        return becomes_true(is_held, NAMED_S)

    wait_until(is_ended, f"{named} in HOLD", 3 * NAMED_S)


def test_actions_far_outside_the_limits_are_bounded_and_reported(rig: Rig) -> None:
    rig.drive()
    before = rig.probe.value(CONTROL, "bounded_commands")
    rig.model.spoil = lambda actions: actions * 1e3
    wait_until(lambda: int(rig.probe.value(CONTROL, "bounded_commands")) > int(before) + 20, "bounded commands")
    assert "joint '" in rig.probe.value(CONTROL, "last_bound")
