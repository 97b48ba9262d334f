"""A stop is in force at once, whatever else is sent; one that falls silent counts as pressed where that is wanted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message
from ros_harness import START_PATIENCE_S, NodeProcess, Probe, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.robot import load_robot
from vla_ros.ros import qos

ROBOT_FILE = Path(__file__).parents[1] / "data" / "three_joints.yaml"
NUM_STOPS = 12
# Of most: a busy machine has its own delays, which benchmarks/estop.py measures on a quiet one.
MAX_DELAY_S = 0.3
TIMEOUT_S = 0.4


@pytest.fixture
def flood(graph) -> Iterator[list[str]]:
    """Somebody sends, again and again, what is far too large; the words that refuse it."""
    points = [JointTrajectoryPoint(positions=[0.0, 0.0, 0.0])] * 60_000
    messages = {
        "vla_policy/teleop": JointTrajectory(joint_names=graph.probe.robot.joint_names, points=points),
        "vla_policy/task": String(data="touch " * 2_000_000),
        "joint_states": JointState(name=[f"joint {i}" for i in range(50_000)]),
    }
    sent: list[tuple[Publisher, bytes]] = []
    ending = threading.Event()

    def send() -> None:
        while not ending.wait(0.02):
            for publisher, data in sent:
                publisher.publish(data)

    thread = threading.Thread(target=send)
    with ExitStack() as stack:
        for topic, msg in messages.items():
            publisher = stack.enter_context(graph.probe.publishing(type(msg), topic, qos.COMMAND))
            sent.append((publisher, serialize_message(msg)))
        thread.start()
        yield [
            "'vla_policy/teleop' refused: message has",
            "'vla_policy/task' refused: message has",
            "joint state on 'joint_states': message has",
        ]
        ending.set()
        thread.join()


def test_a_stop_does_not_wait_behind_a_flood_of_what_is_too_large(graph, flood: list[str]) -> None:
    graph.probe.wait_for_words(*flood)
    delays_s = []
    for _ in range(NUM_STOPS):
        began_s = time.monotonic()
        graph.probe.estop(True)
        wait_until(lambda: graph.probe.mode() == "ESTOP", "ESTOP")
        delays_s.append(time.monotonic() - began_s)
        graph.probe.estop(False)
        wait_until(lambda: graph.probe.trigger("vla_policy/reset_estop").success, "a reset")
        wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD")
    assert np.median(delays_s) < MAX_DELAY_S, delays_s


def test_a_stop_that_nobody_has_reset_is_one_while_the_node_is_not_active_too(graph) -> None:
    graph.probe.estop(True)
    wait_until(lambda: graph.probe.mode() == "ESTOP", "ESTOP")
    graph.bring("vla_policy", "inactive")
    graph.probe.wait_for_words("ESTOP: not active")
    assert graph.probe.mode() == "ESTOP"
    graph.bring("vla_policy", "active")
    graph.probe.estop(False)
    wait_until(lambda: graph.probe.trigger("vla_policy/reset_estop").success, "a reset")


def test_a_stop_that_falls_silent_is_a_pressed_one(ros: None, policy_dir: Path, tmp_path: Path) -> None:
    probe = Probe(load_robot(ROBOT_FILE), namespace="silent")
    parameters = {"policy": policy_dir, "robot": ROBOT_FILE, "autostart": "true", "estop_timeout_s": TIMEOUT_S}
    node = NodeProcess("nodes.policy_node", tmp_path / "node.log", parameters, namespace="silent")
    is_alive = threading.Event()
    is_alive.set()
    ending = threading.Event()

    def press_nothing() -> None:
        while not ending.wait(TIMEOUT_S / 8):
            if is_alive.is_set():
                probe.estop(False)

    def reset() -> bool:
        return probe.trigger("vla_policy/reset_estop").success

    thread = threading.Thread(target=press_nothing)
    thread.start()
    try:
        wait_until(lambda: probe.commands, "the first command", START_PATIENCE_S)
        # A busy machine may keep this process away so long that it counts as silent once more.
        wait_until(lambda: reset() and probe.trigger("vla_policy/takeover").success, "a human")
        is_alive.clear()
        wait_until(lambda: probe.mode() == "ESTOP", "ESTOP")
        wait_until(lambda: "nothing came on 'vla_policy/estop' for" in probe.said("vla_policy: control"), "why")
        assert not reset(), "nobody says that it is let go"
        is_alive.set()
        wait_until(reset, "a reset once it is heard again")
    finally:
        ending.set()
        thread.join()
        code = node.stop(signal.SIGINT)
        probe.close()
    assert code == 0, node.log
