"""A robot whose limits come from the topic of its URDF: configure waits for them, commands keep them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from ros_harness import ROBOT_FILE, NodeProcess, Probe, wait_until
from std_msgs.msg import String

from vla_ros.robot import RobotFile, read_robot_file
from vla_ros.ros import qos
from vla_ros.ros.robot_description import PATIENCE_S, RobotDescription

NAMESPACE = "described"
TOPIC = f"/{NAMESPACE}/robot_description"
JOINTS = ("base", "shoulder", "wrist")
# What none of the limits in the tests' own robot file is.
UPPER, MAX_VELOCITY = 0.8, 0.35


def urdf(joints: tuple[str, ...] = JOINTS, max_velocity: float = MAX_VELOCITY) -> str:
    limit = f'<limit lower="-0.4" upper="{UPPER}" velocity="{max_velocity}" effort="1"/>'
    entries = [f'<joint name="{name}" type="revolute">{limit}</joint>' for name in joints]
    return f'<robot name="arm">{"".join(entries)}</robot>'


@pytest.fixture(scope="module")
def robot_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The robot of the other tests, its limits left out."""
    document = yaml.safe_load(ROBOT_FILE.read_text())
    for joint in document["joints"]:
        for limit in ("lower", "upper", "max_velocity"):
            del joint[limit]
    path = tmp_path_factory.mktemp("robot") / "robot.yaml"
    path.write_text(yaml.safe_dump(document | {"urdf_topic": "robot_description"}))
    return path


@pytest.fixture(scope="module")
def running(ros: None, robot_path: Path, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    probe = Probe(read_robot_file(robot_path).robot(urdf()), NAMESPACE)
    log = tmp_path_factory.mktemp("logs") / "policy_node.log"
    node = NodeProcess("nodes.policy_node", log, {"policy": policy_dir, "robot": robot_path}, NAMESPACE)
    try:
        yield probe
    finally:
        code = node.stop()
        probe.close()
    assert code == 0, node.log


@pytest.fixture
def probe(running: Probe) -> Probe:
    """The policy node is not configured, and nobody publishes a URDF."""
    transitions = {"active": "deactivate", "inactive": "cleanup"}
    while (state := running.state("vla_policy")) != "unconfigured":
        assert running.change_state("vla_policy", transitions[state])
    running.reset()
    running.positions = np.zeros(len(JOINTS))
    return running


@pytest.fixture
def publish(probe: Probe) -> Iterator[Callable[[str], None]]:
    """Publishes a URDF as robot_state_publisher does, until the test is over."""
    with probe.publishing(String, "robot_description", qos.LATCHED) as publisher:
        yield lambda text: publisher.publish(String(data=text))
    wait_until(lambda: not probe.node.get_publishers_info_by_topic(TOPIC), "nobody publishes it any more")


def follow(probe: Probe, goal: list[float]) -> np.ndarray:
    """A hand leads the robot to ``goal``; the largest speed that was commanded on the way, rad/s by joint."""
    probe.commands.clear()
    wait_until(
        lambda: probe.teleop(goal) or (probe.commands and np.allclose(probe.commands[-1].points[0].positions, goal)),
        f"the robot at {goal}",
    )
    return np.abs([msg.points[0].velocities for msg in probe.commands]).max(axis=0)


def test_without_a_urdf_configure_is_refused_and_says_what_it_waited_for(probe):
    began_s = time.monotonic()
    assert not probe.change_state("vla_policy", "configure")
    assert time.monotonic() - began_s >= PATIENCE_S
    assert probe.state("vla_policy") == "unconfigured"
    probe.wait_for_words(f"no URDF came on '{TOPIC}' (urdf_topic) in 5 s: nobody publishes it")


def test_a_publisher_that_keeps_nothing_for_who_comes_later_is_named(probe, robot_path):
    with probe.publishing(String, "robot_description", qos.COMMAND):
        wait_until(lambda: probe.node.get_publishers_info_by_topic(TOPIC), "the publisher is known")
        description = RobotDescription(probe.node, read_robot_file(robot_path))
        try:
            with pytest.raises(ValueError, match="probe publishes std_msgs/msg/String, reliable, volatile; expected"):
                description.wait(patience_s=1.0)
        finally:
            description.stop()


@pytest.mark.parametrize("name", ["robot description", "9lives"])
def test_what_can_be_no_name_of_a_topic_is_refused_in_one_line(probe, robot_path, name):
    file = RobotFile(robot_path, {"urdf_topic": name})
    with pytest.raises(ValueError, match=f"urdf_topic is '{name}': Invalid topic name") as refused:
        RobotDescription(probe.node, file)
    assert "\n" not in str(refused.value)


def test_a_urdf_that_lacks_a_joint_is_refused_at_once(probe, publish):
    publish(urdf(JOINTS[:2]))
    assert not probe.change_state("vla_policy", "configure")
    probe.wait_for_words("joint 'wrist' is not in the URDF on topic", "give lower, upper")


def test_commands_keep_the_limits_of_the_urdf(probe, publish):
    publish(urdf())
    assert probe.change_state("vla_policy", "configure") and probe.change_state("vla_policy", "activate")
    fastest = follow(probe, [UPPER, UPPER, UPPER])
    assert fastest.max() == pytest.approx(MAX_VELOCITY, abs=1e-6)
    follow(probe, [0.0, 0.0, 0.0])
    probe.commands.clear()
    beyond = [UPPER + 0.1, 0.0, 0.0]
    wait_until(
        lambda: probe.teleop(beyond) or (probe.commands and probe.commands[-1].points[0].positions[0] > UPPER - 1e-6),
        "the robot at its limit",
    )
    assert max(command.points[0].positions[0] for command in probe.commands) <= UPPER + 1e-9
    probe.wait_for_words("'base': target 0.900 is outside -0.4")


def test_a_urdf_with_other_limits_is_reported_and_not_obeyed_until_the_next_configure(probe, publish):
    publish(urdf())
    assert probe.change_state("vla_policy", "configure") and probe.change_state("vla_policy", "activate")
    slow = MAX_VELOCITY / 2
    publish(urdf(max_velocity=slow))
    probe.wait_for_words("joint 'base' has max_velocity 0.175 in it, was 0.35", "configure again")
    assert follow(probe, [0.5, -0.2, -0.2]).max() == pytest.approx(MAX_VELOCITY, abs=1e-6)
    publish("<sdf/>")
    probe.wait_for_words("begins with <sdf>", "configure again")
    publish(urdf())
    wait_until(lambda: "URDF" not in probe.said("vla_policy: control"), "no problem any more")
    publish(urdf(max_velocity=slow))
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert probe.change_state("vla_policy", transition)
    assert follow(probe, [0.0, 0.2, 0.2]).max() == pytest.approx(slow, abs=1e-6)


def check(robot_path: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    arguments = ["check", str(robot_path), "--namespace", NAMESPACE, "--seconds", "1"]
    command = [sys.executable, "-m", "vla_ros.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def test_check_reads_the_topic_and_refuses_the_robot_file_without_it(probe, publish, robot_path):
    run = check(robot_path)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert f"no URDF came on '{TOPIC}' (urdf_topic) in 5 s" in run.stderr
    publish(urdf())
    probe.positions = np.array([UPPER + 0.4, 0.0, 0.0])
    run = check(robot_path)
    assert run.returncode == 1 and run.stderr == ""
    assert "base at 1.200" in run.stdout and "-0.4 to 0.8" in run.stdout
