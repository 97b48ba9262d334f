"""Joint states of wheels, of another arm or of a gripper's own driver beside the robot's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import ROBOT_FILE
from sensor_msgs.msg import JointState

from vla_ros.check.finding import Level
from vla_ros.check.seen import Endpoint, JointStatesSeen, TopicSeen
from vla_ros.check.sensors import judge_joint_states
from vla_ros.messages.times import fill_time
from vla_ros.nodes import inputs
from vla_ros.observing.buffers import SensorBuffers
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
    assert lines and f"lacks joint '{OURS[0]}'; it holds wheel_left, wheel_right" in lines[0]


def test_a_joint_of_ours_that_is_missing_is_named_at_once(heard: Any) -> None:
    lines = heard(OURS[:-1])
    assert f"lacks joint '{OURS[-1]}'" in lines[0]


def test_two_messages_on_one_topic_are_two_sources_each_with_its_own_names(heard: Any) -> None:
    sources = (JointStateConfig(joints=OURS[:2]), JointStateConfig(joints=OURS[2:], rename={"jaw": OURS[2]}))
    heard.inputs._robot = robot = replace(ROBOT, joint_states=sources)
    heard.inputs.sensors = SensorBuffers(robot)
    assert heard(OURS[:2], WHEELS, OURS[:2]) == []
    assert heard.inputs.sensors.joints.newest() is None, "the gripper's message hasn't come"
    assert heard(("jaw",), OURS[:2]) == [] and heard.inputs.sensors.joints.newest() is not None


def failures(*messages: tuple[str, ...]) -> dict[str, str]:
    """What ``vla_ros check`` fails of these, one every 10 ms, from two publishers."""
    topic = TopicSeen("/joint_states", (Endpoint("/arm", JOINT_STATE), Endpoint("/base", JOINT_STATE)))
    seen = JointStatesSeen(topic, joint_names=OURS)
    times_ns = [START_NS + i * NS_PER_S // 100 for i in range(len(messages))]
    for names, at_ns in zip(messages, times_ns, strict=True):
        seen.add(joint_state(names, at_ns), at_ns)
    seen.stream.until_ns = times_ns[-1]
    findings = judge_joint_states(ROBOT, ROBOT.joint_sources[0], seen, 3.0).findings
    return {finding.aspect: finding.got for finding in findings if finding.level is Level.FAIL}


def test_check_fails_nothing_for_wheels_beside_our_joints() -> None:
    assert failures(*[OURS, WHEELS] * 100) == {}


def test_check_names_the_joints_where_only_others_come() -> None:
    assert failures(*[WHEELS] * 100) == {"names": f"no {', '.join(OURS)}; wheel_left, wheel_right came"}
