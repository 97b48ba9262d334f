"""`vla_ros check` on the running simulation, and on a robot whose controller says how it is set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from ros_harness import ROBOT_FILE, Probe
from sensor_msgs.msg import CompressedImage
from sim_harness import SIM_DOMAIN, SimGraph, sim_environment
from trajectory_msgs.msg import JointTrajectory

from vla_ros.check.seen import Picture
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.ros import qos
from vla_ros.ros.managed import spinning
from vla_ros.share import share_path

TABLETOP = share_path("config/robots/tabletop.yaml")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("vla_ros.sim.world")
    with SimGraph(load_robot(TABLETOP), tmp_path_factory.mktemp("sim")) as graph:
        graph.wait_until_up()
        yield


def run_check(*arguments: str, domain: str = str(SIM_DOMAIN)) -> subprocess.CompletedProcess[str]:
    env = sim_environment() | {"ROS_DOMAIN_ID": domain}
    command = [sys.executable, "-m", "vla_ros.cli", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def check(
    robot: Path | str, folder: Path, *arguments: str, domain: str = str(SIM_DOMAIN)
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """One run for two seconds, and its JSON."""
    file = folder / "check.json"
    file.unlink(missing_ok=True)
    run = run_check(str(robot), "--seconds", "2", "--json", str(file), *arguments, domain=domain)
    assert file.exists(), run.stderr
    return run, json.loads(file.read_text())


def robot_file(folder: Path, before: str, after: str) -> Path:
    """The simulation's robot file with something wrong in it."""
    text = TABLETOP.read_text()
    assert before in text
    path = folder / "robot.yaml"
    path.write_text(text.replace(before, after))
    return path


def failures(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["subject"]: finding for finding in report["findings"] if finding["level"] == "FAIL"}


def test_the_simulation_fits_its_robot_file_and_the_packaged_policy(sim, tmp_path):
    run, report = check("tabletop", tmp_path, "--policy", "tiny_touch")
    assert run.returncode == 0, run.stdout + run.stderr
    assert report["ok"] is True and failures(report) == {}
    subjects = {finding["subject"] for finding in report["findings"]}
    assert {"camera front: size", "cameras: skew", "joint states: names", "output arm: controller"} <= subjects
    assert run.stdout.startswith("tabletop (") and "\nfits" in run.stdout
    assert "/front_camera/image_raw, sensor_msgs/msg/Image, best effort, from /sim_node" in run.stdout


def test_a_wrong_image_size_in_the_robot_file_fails_with_both_sizes(sim, tmp_path):
    path = robot_file(tmp_path, "front_camera/image_raw, width: 128", "front_camera/image_raw, width: 640")
    run, report = check(path, tmp_path, "--policy", "tiny_touch")
    assert run.returncode == 1 and report["ok"] is False
    found = failures(report)
    assert found.keys() == {"camera front: size", "policy: size"}
    size = found["camera front: size"]
    assert (size["got"], size["expected"]) == ("128x128 pixels", "640x128 pixels")
    assert "width and height" in size["fix"]
    assert "does not fit: 2 FAIL" in run.stdout


def test_a_joint_that_never_comes_fails_by_its_name(sim, tmp_path):
    path = robot_file(tmp_path, "gripper", "hand")
    run, report = check(path, tmp_path)
    assert run.returncode == 1
    assert failures(report).keys() == {"joint states: names"}
    assert failures(report)["joint states: names"]["got"] == "no hand; gripper came"


def test_an_empty_graph_fails_everything_it_needs_and_ends(sim, tmp_path):
    run, report = check("tabletop", tmp_path, "--namespace", "elsewhere")
    assert run.returncode == 1
    expected = {"camera front: publisher", "camera top: publisher", "joint states: publisher", "output arm: controller"}
    assert failures(report).keys() == expected
    assert "/elsewhere/joint_states" in run.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["tabletop", "--seconds", "0"], "--seconds is 0"),
        (["no_such_robot"], "robot 'no_such_robot'"),
        (["tabletop", "--policy", "no_such_policy"], "policy 'no_such_policy'"),
        (["tabletop", "--namespace", "a b"], "--namespace 'a b'"),
    ],
)
def test_unusable_arguments_are_refused_in_one_line(arguments, said):
    run = run_check(*arguments)
    assert run.returncode == 2 and not run.stdout
    assert run.stderr.startswith("vla_ros check: ") and said in run.stderr and run.stderr.count("\n") == 1


@pytest.fixture
def probe(ros: None) -> Iterator[Probe]:
    """A robot that is only topics, in this process's own domain."""
    probe = Probe(load_robot(ROBOT_FILE))
    yield probe
    probe.close()


@contextmanager
def controller(robot: RobotConfig, joints: list[str], interpolates: bool) -> Iterator[None]:
    """A node that takes commands and has parameters as a joint_trajectory_controller has."""
    node = rclpy.create_node("arm_controller")
    node.declare_parameter("joints", joints)
    node.declare_parameter("interpolate_from_desired_state", interpolates)
    node.declare_parameter("allow_nonzero_velocity_at_trajectory_end", False)
    node.create_subscription(JointTrajectory, robot.outputs[0].command_topic, lambda msg: None, qos.COMMAND)
    with spinning(node):
        yield
    node.destroy_node()


def test_a_controllers_parameters_are_read_and_compared(probe, tmp_path):
    with controller(probe.robot, ["base", "shoulder"], interpolates=False):
        run, report = check(ROBOT_FILE, tmp_path, domain=os.environ["ROS_DOMAIN_ID"])
    assert run.returncode == 1
    assert failures(report).keys() == {"output arm: joints"}
    assert failures(report)["output arm: joints"]["got"] == "/arm_controller has base, shoulder"
    assert "interpolate_from_desired_state is false" in run.stdout
    with controller(probe.robot, list(probe.robot.joint_names), interpolates=True):
        run, report = check(ROBOT_FILE, tmp_path, domain=os.environ["ROS_DOMAIN_ID"])
    assert run.returncode == 0, run.stdout
    assert "/arm_controller has the same 3" in run.stdout


def test_what_a_broken_driver_sends_is_named(probe, tmp_path):
    probe.encoding, probe.joint_names = "16UC1", ["base", "shoulder", "hand"]
    probe.silent = {"top"}
    run, report = check(ROBOT_FILE, tmp_path, domain=os.environ["ROS_DOMAIN_ID"])
    assert run.returncode == 1
    assert failures(report).keys() == {"camera front: encoding", "camera top: rate", "joint states: names"}


def test_half_a_picture_is_a_problem_of_the_camera_and_its_format_is_judged_by_itself():
    done, data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (64, 48), np.uint8))
    assert done
    whole, half = data.tobytes(), data.tobytes()[: data.size // 2]
    assert Picture.of(CompressedImage(format="mono8; png compressed ", data=whole)) == Picture(
        48, 64, "mono8; png compressed "
    )
    picture = Picture.of(CompressedImage(format="mono8; png compressed ", data=half))
    assert "breaks off" in picture.problem
    assert Picture.of(CompressedImage(format="bayer_rggb8; png compressed ", data=whole)).problem == ""
