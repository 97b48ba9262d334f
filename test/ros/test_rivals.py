"""What must come from one comes from two: nobody drives then, and both are named; a node that was started again is
no rival of what is left of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from ros_harness import START_PATIENCE_S, NodeProcess, Probe, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros.policies.files import digest_of
from vla_ros.robot import load_robot
from vla_ros.ros import qos
from vla_ros.ros.managed import spinning

COMMANDS = "joint_trajectory_controller/joint_trajectory"
PERIOD_S = 0.02
Rival = Callable[[Any, type, str, Callable[[], Any] | None], None]


@pytest.fixture
def rival(graph) -> Iterator[Rival]:
    """Somebody else's node, which publishes a topic in the place of its owner, or only offers to."""
    node = rclpy.create_node("rival", namespace=graph.probe.namespace)

    def publish(kind: type, topic: str, make: Callable[[], Any] | None = None) -> None:
        publisher = node.create_publisher(kind, topic, qos.COMMAND)
        if make is not None:
            node.create_timer(PERIOD_S, lambda: publisher.publish(make()))

    with spinning(node):
        yield publish
    node.destroy_node()

    def is_over() -> Any:
        status = graph.probe.diagnostic("vla_policy: control")
        return status and not any(value.key.startswith("problem: publishers") for value in status.values)

    wait_until(is_over, "diagnostics without a rival")


def joints_of(probe: Probe, *names: str) -> JointState:
    msg = JointState(name=names, position=[0.5] * len(names))
    msg.header.stamp = probe.node.get_clock().now().to_msg()
    return msg


def heartbeat(digest: str) -> DiagnosticStatus:
    return DiagnosticStatus(level=b"\0", message="active", values=[KeyValue(key="digest", value=digest)])


RIVALS: dict[str, tuple[type, str, Callable[[Any], Any] | None]] = {
    "commands": (JointTrajectory, COMMANDS, None),
    "the mode": (String, "vla_policy/mode", None),
    "joint states": (JointState, "joint_states", lambda graph: joints_of(graph.probe, *graph.probe.robot.joint_names)),
    "one joint": (JointState, "joint_states", lambda graph: joints_of(graph.probe, "finger", "wrist")),
    "the model's status": (DiagnosticStatus, "vla_model/status", lambda graph: heartbeat(digest_of(graph.policy_dir))),
}


@pytest.mark.parametrize("what", RIVALS)
def test_a_rival_ends_the_policys_drive_and_is_named(graph, rival: Rival, what: str) -> None:
    kind, topic, make = RIVALS[what]
    graph.probe.drive()
    rival(kind, topic, None if make is None else lambda: make(graph))
    wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD")
    graph.probe.wait_for_words(f"'/{topic}' has 2 publishers", "/rival", "expected one for this robot")
    refusal = graph.probe.trigger("vla_policy/engage")
    assert not refusal.success and "/rival" in refusal.message


def test_who_publishes_other_joints_is_no_rival(graph, rival: Rival) -> None:
    graph.probe.drive()
    heard, said = [], len(graph.policy_node.log)

    def fingers() -> JointState:
        heard.append(joints_of(graph.probe, "finger", "thumb"))
        return heard[-1]

    rival(JointState, "joint_states", fingers)
    wait_until(lambda: len(heard) > 100, "messages of a gripper")
    assert "publishers" not in graph.policy_node.log[said:], "a busy machine may end the drive for another reason"


def test_with_a_rival_in_the_graph_a_node_refuses_to_become_active(graph, rival: Rival) -> None:
    graph.bring("vla_policy", "inactive")
    rival(JointTrajectory, COMMANDS)
    graph.probe.wait_for_words("/rival")
    assert not graph.probe.change_state("vla_policy", "activate")
    assert graph.probe.state("vla_policy") == "inactive"


def test_a_second_policy_node_is_not_active_and_one_started_after_a_kill_is(
    ros: None, policy_dir: Path, tmp_path: Path
) -> None:
    robot_file = Path(__file__).parents[1] / "data" / "three_joints.yaml"
    parameters = {"policy": policy_dir, "robot": robot_file, "autostart": "true"}

    def start(name: str) -> NodeProcess:
        return NodeProcess("nodes.policy_node", tmp_path / f"{name}.log", parameters, namespace="twins")

    probe = Probe(load_robot(robot_file), namespace="twins")
    first = second = third = start("first")
    try:
        wait_until(lambda: "active" in first.log and probe.commands, "the first's commands", START_PATIENCE_S)
        second = start("second")
        wait_until(lambda: "cannot activate: " in second.log, "the second's refusal", START_PATIENCE_S)
        other = "(/twins/vla_policy|a node not known by name yet)"
        assert re.search(f"has 2 publishers: /twins/vla_policy, {other}; expected one", second.log)
        for node in (first, second):
            node.stop(signal.SIGKILL)
        third = start("third")
        wait_until(lambda: "]: active" in third.log, "a node as active as the killed ones were", START_PATIENCE_S)
        probe.commands.clear()
        probe.limits.new_segment()
        wait_until(lambda: len(probe.commands) > 20, "commands")
        assert "publishers" not in third.log
    finally:
        for node in (first, second, third):
            node.stop()
        probe.close()
