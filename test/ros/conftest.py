"""Real nodes over loopback, in a ROS domain of this test process alone."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "unit"))
os.environ["ROS_DOMAIN_ID"] = str(101 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

import rclpy  # noqa: E402  the environment comes first
from ros_harness import ROBOT_FILE, NodeProcess, Probe, assert_within_limits, wait_until  # noqa: E402
from waiting import Lasting, nothing_left_behind  # noqa: E402

from vla_ros.robot import load_robot  # noqa: E402


@dataclass
class Graph:
    """Both nodes, and the probe that plays the robot."""

    probe: Probe
    policy_node: NodeProcess
    model_node: NodeProcess
    policy_dir: Path

    def bring(self, node: str, state: str) -> None:
        """Lead a node to ``inactive`` or ``active`` from any of the states a test may leave it in."""
        steps = {
            ("unconfigured", "inactive"): ["configure"],
            ("unconfigured", "active"): ["configure", "activate"],
            ("inactive", "active"): ["activate"],
            ("active", "inactive"): ["deactivate"],
        }
        for transition in steps.get((self.probe.state(node), state), []):
            assert self.probe.change_state(node, transition), f"{node}: {transition}"


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


def add_interfaces(name: str) -> None:
    """For this process and those that it starts."""
    from interface_package import interface_package

    folder = str(interface_package(name))
    sys.path.append(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), folder])


@pytest.fixture(scope="session")
def vla_ros_msgs() -> None:
    """The interfaces of the package beside this one: of the workspace, else made here."""
    built = importlib.util.find_spec("vla_ros_msgs")
    if built is None or built.origin is None:  # its sources, in the folder that tests run in
        if shutil.which("g++") is None:
            pytest.skip("vla_ros_msgs is not built, and without g++ it can't be built here")
        add_interfaces("vla_ros_msgs")


@pytest.fixture(scope="session")
def control_msgs() -> None:
    """The actions of grippers, for this process and those that it starts: of the ROS installation, else a stand-in."""
    if importlib.util.find_spec("control_msgs") is None:
        if shutil.which("g++") is None:
            pytest.skip("control_msgs is not installed, and without g++ no stand-in can be built")
        add_interfaces("control_msgs")


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small policy with random weights for the robot of these tests; its chunks last 2 s."""
    from policy_helpers import observation, pi_config, policy_processor

    from vla_ros.policies.directory import save_policy
    from vla_ros.policies.fill import build_policy

    directory = tmp_path_factory.mktemp("policies") / "random"
    config = pi_config()
    save_policy(directory, build_policy(config), policy_processor(config, chunk_dt_s=0.5), observation())
    # With torch in this process a collection takes half a second, in which the robot played here would stand still.
    gc.freeze()
    return directory


@pytest.fixture(autouse=True, scope="module")
def nothing_of_a_module_left_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(autouse=True)
def within_limits() -> Iterator[None]:
    """After each test, whatever it was about: nothing that a probe heard in it was outside the robot file, and nothing
    that it began goes on."""
    with nothing_left_behind():
        yield
        for probe in Lasting.open:
            if isinstance(probe, Probe):
                assert_within_limits(probe)


# Of a module, though starting takes a while: kept to the end of the session the nodes would slow down every other test.
@pytest.fixture(scope="module")
def module_graph(ros: None, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    logs = tmp_path_factory.mktemp("logs")
    probe = Probe(load_robot(ROBOT_FILE))
    model_node = NodeProcess("nodes.model_node", logs / "model_node.log", {"policy": policy_dir})
    parameters = {"policy": policy_dir, "robot": ROBOT_FILE, "result_timeout_s": 2}
    policy_node = NodeProcess("nodes.policy_node", logs / "policy_node.log", parameters)
    try:
        yield Graph(probe, policy_node, model_node, policy_dir)
    finally:
        codes = [node.stop() for node in (policy_node, model_node)]
        probe.close()
    assert codes == [0, 0], policy_node.log + model_node.log
    assert_within_limits(probe)


@pytest.fixture
def graph(module_graph: Graph) -> Graph:
    """Both nodes active and in HOLD, healthy sensors, an instruction."""
    module_graph.probe.reset()
    for node in ("vla_model", "vla_policy"):
        module_graph.bring(node, "active")
    module_graph.probe.trigger("vla_policy/hold")
    module_graph.probe.say("touch the red block")
    wait_until(lambda: module_graph.probe.mode() == "HOLD", "HOLD")
    return module_graph
