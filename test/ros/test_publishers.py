"""Whoever publishes a stop, an instruction or a hand's motion is heard, whatever their quality of service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import wait_until
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

PROFILES = {
    "best effort": QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    "ROS's default": QoSProfile(depth=10),
    "latched": QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
}
Say = Callable[[str, Any, Callable[[], Any], str], None]


@pytest.fixture(params=PROFILES)
def say(graph, request: pytest.FixtureRequest) -> Iterator[Say]:
    """Publish a message again and again, as somebody else's node would, until a condition holds."""
    publishers = {}
    with ExitStack() as stack:

        def until(topic: str, msg: Any, condition: Callable[[], Any], what: str) -> None:
            if topic not in publishers:
                publishing = graph.probe.publishing(type(msg), topic, PROFILES[request.param])
                publishers[topic] = stack.enter_context(publishing)
            wait_until(lambda: condition() or publishers[topic].publish(msg), what)

        yield until


def test_a_stop_is_heard_and_so_is_its_end(graph, say: Say) -> None:
    say("vla_policy/estop", Bool(data=True), lambda: graph.probe.mode() == "ESTOP", "ESTOP")
    released = Bool(data=False)
    say("vla_policy/estop", released, lambda: graph.probe.trigger("vla_policy/reset_estop").success, "reset")
    wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD")


def test_an_instruction_is_heard(graph, say: Say) -> None:
    traces: list[str] = []
    with graph.probe.hearing(String, "vla_policy/trace", lambda msg: traces.append(msg.data), 10):
        instruction = String(data="touch the blue block")

        def is_followed() -> bool:
            if graph.probe.mode() == "HOLD":
                graph.probe.engage()
            return any(instruction.data in trace for trace in traces)

        say("vla_policy/task", instruction, is_followed, "a chunk for it")


def test_a_hand_is_heard(graph, say: Say) -> None:
    graph.probe.engage()
    hand = JointTrajectory(
        joint_names=graph.probe.robot.joint_names, points=[JointTrajectoryPoint(positions=[0.0, 0.0, 0.0])]
    )
    say("vla_policy/teleop", hand, lambda: graph.probe.mode() == "TELEOP", "TELEOP")
