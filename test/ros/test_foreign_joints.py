"""Joint states of wheels, of another arm or of a gripper's own driver beside the robot's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ros_harness import ROBOT_FILE
from sensor_msgs.msg import JointState

from vla_ros.check.finding import Level
from vla_ros.check.seen import Endpoint, JointStatesSeen, TopicSeen
from vla_ros.check.sensors import judge_joint_states
from vla_ros.messages.times import fill_time
from vla_ros.nodes import inputs
from vla_ros.observing.buffers import SensorBuffers
from vla_ros.observing.freshness import joint_fault
from vla_ros.robot import load_robot
from vla_ros.robot.parts import JointStateConfig
from vla_ros.topics import JOINT_STATE
from vla_ros.units import NS_PER_S

ROBOT = load_robot(ROBOT_FILE)
OURS = ROBOT.joint_names
WHEELS = ("wheel_left", "wheel_right")
START_NS = 1_000 * NS_PER_S


def joint_state(names: tuple[str, ...], at_ns: int) -> JointState:
    msg = JointState(name=list(names), position=[(j.lower + j.upper) / 2 for j in ROBOT.joints][: len(names)])
    fill_time(msg.header.stamp, at_ns)
    return msg


class SameClock:
    def to_steady_ns(self, stamp_ns: int) -> int:
        return stamp_ns


class KeptProblems:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def report(self, source: str, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hears joint states, one every 10 ms, and says what is wrong with them."""
    now_ns = START_NS

    class Quiet:
        def __init__(self, *_: Any) -> None:
            pass

        def subscribe(self, *_: Any) -> None:
            pass

    def hear(*messages: tuple[str, ...]) -> list[str]:
        nonlocal now_ns
        for names in messages:
            now_ns += NS_PER_S // 100
            sensor_inputs._on_joint_state("joint_states", joint_state(names, now_ns))
        return problems.lines

    monkeypatch.setattr(inputs, "Role", Quiet)
    monkeypatch.setattr(inputs, "steady_now_ns", lambda: now_ns)
    problems = KeptProblems()
    sensor_inputs: Any = inputs.SensorInputs(None, ROBOT, SameClock(), problems, lambda: None)  # type: ignore[arg-type]
    hear.inputs = sensor_inputs  # type: ignore[attr-defined]
    hear(OURS)
    sensor_inputs.sensors = SensorBuffers(ROBOT)
    return hear


def test_wheels_beside_our_joints_are_no_problem_of_the_node(heard: Any) -> None:
    assert heard(*[WHEELS, OURS, WHEELS, WHEELS] * 200) == []
    assert heard.inputs.sensors.joints.newest() is not None


def test_only_wheels_for_seconds_are_named_with_what_is_missing(heard: Any) -> None:
    lines = heard(*[WHEELS] * 400)
    assert lines and f"lacks joint '{OURS[0]}'; messages hold {', '.join(OURS)}, wheel_left, wheel_right" in lines[0]


def test_arm_and_gripper_in_messages_of_their_own_are_no_problem_with_one_source(heard: Any) -> None:
    assert heard(*[OURS[:-1], OURS[-1:], WHEELS] * 200) == []
    robot, sensors, now_ns = ROBOT, heard.inputs.sensors, heard.inputs._named["joint_states"]._heard_ns
    assert joint_fault(robot, sensors, now_ns) is None and np.isfinite(sensors.joints.newest().positions).all()


def test_a_joint_that_nobody_sends_is_named_beside_what_came(heard: Any) -> None:
    lines = heard(*[OURS[:-1], ("jaw",)] * 200)
    line = f"lacks joint '{OURS[-1]}'; messages hold {', '.join(OURS)}, jaw: check the joint names in the robot file"
    assert lines and lines[0].endswith(line)
    fault = joint_fault(ROBOT, heard.inputs.sensors, heard.inputs._named["joint_states"]._heard_ns)
    assert fault is not None and fault.line == f"no joint state has come of {OURS[-1]} on 'joint_states'"


def test_joints_that_come_again_after_a_long_silence_of_all_are_not_missing(heard: Any) -> None:
    heard(OURS[:-1])
    heard.inputs._named["joint_states"]._heard_ns -= 10 * NS_PER_S
    heard.inputs._named["joint_states"]._named_ns = dict.fromkeys(OURS, 0)
    assert heard(OURS[:-1], OURS[-1:]) == []


def test_two_messages_on_one_topic_are_two_sources_each_with_its_own_names(heard: Any) -> None:
    sources = (JointStateConfig(joints=OURS[:2]), JointStateConfig(joints=OURS[2:], rename={"jaw": OURS[2]}))
    heard.inputs._robot = robot = replace(ROBOT, joint_states=sources)
    heard.inputs.sensors = SensorBuffers(robot)
    assert heard(OURS[:2], WHEELS, OURS[:2]) == []
    assert heard.inputs.sensors.joints.newest() is None, "the gripper's message hasn't come"
    assert heard(("jaw",), OURS[:2]) == [] and heard.inputs.sensors.joints.newest() is not None


def faults(*messages: tuple[str, ...]) -> dict[str, str]:
    """What ``vla_ros check`` fails and warns of these, one every 5 ms, from two publishers."""
    topic = TopicSeen("/joint_states", (Endpoint("/arm", JOINT_STATE), Endpoint("/base", JOINT_STATE)))
    seen = JointStatesSeen(topic, OURS)
    times_ns = [START_NS + i * NS_PER_S // 200 for i in range(len(messages))]
    for names, at_ns in zip(messages, times_ns, strict=True):
        seen.add(joint_state(names, at_ns), at_ns)
    seen.until_ns = times_ns[-1]
    parts = judge_joint_states(ROBOT, ROBOT.joint_sources[0], seen, 3.0)
    findings = [finding for part in parts for finding in part.findings]
    return {finding.subject: finding.got for finding in findings if finding.level is not Level.OK}


def test_check_has_nothing_against_wheels_beside_our_joints_or_a_gripper_of_its_own() -> None:
    assert faults(*[OURS, WHEELS] * 100) == {}
    assert faults(*[OURS[:-1], OURS[-1:], WHEELS] * 100) == {}


def test_check_names_the_joint_that_nobody_sends() -> None:
    assert faults(*[OURS[:-1], WHEELS] * 100) == {"joint states: names": f"no {OURS[-1]}; wheel_left, wheel_right came"}


def test_check_names_the_joints_where_only_others_come() -> None:
    assert faults(*[WHEELS] * 100) == {"joint states: names": f"no {', '.join(OURS)}; wheel_left, wheel_right came"}
