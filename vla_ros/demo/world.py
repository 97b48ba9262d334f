"""The demo's world, brought up: the simulated arm and both nodes as child processes, and a client that leads them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from vla_ros import topics
from vla_ros.demo.client import ACTIVATE, CONFIGURE, DEACTIVATE, DemoClient
from vla_ros.demo.processes import Processes
from vla_ros.demo.stats import Recording
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.ros.dds import use_default_dds_profile
from vla_ros.ros.managed import spinning
from vla_ros.ros.signals import interrupt_on_signals, ros_running
from vla_ros.share import policy_dir, robot_file

START_TIMEOUT_S = 120.0
TRANSITION_TIMEOUT_S = 10.0
ENGAGE_TIMEOUT_S = 5.0
RETRY_S = 0.05
MANAGED = {"model_node": topics.MODEL_NODE, "policy_node": topics.POLICY_NODE}
DONE = {CONFIGURE: "configured", ACTIVATE: "activated", DEACTIVATE: "deactivated"}
FIRST_FRAME_S = 0.06
"""This long after its activation the policy node has seen a frame of each camera; asking sooner only fills its log."""

Client = TypeVar("Client", bound=DemoClient)


@dataclass(frozen=True)
class WorldConfig:
    """The nodes' parameters; the model is made slower by ``inference_delay_ms``, ``control_rate_hz`` 0 is the robot
    file's. ``robot_node`` plays the robot of ``robot``, for which the policy node has the file ``policy_robot`` where
    that is given. Each node's log goes to ``log_dir``."""

    robot: str
    policy: str
    strategy: str
    inference_delay_ms: float
    log_dir: Path
    seed: int = 0
    view_hz: float = 0.0
    control_rate_hz: float = 0.0
    task: str = ""
    robot_node: str = "sim_node"
    policy_robot: str = ""

    @property
    def nodes(self) -> Mapping[str, Mapping[str, object]]:
        """The parameters of each node: first the robot's, then both that let the policy drive it."""
        of_robot = {"robot": self.policy_robot or self.robot, "control_rate_hz": self.control_rate_hz}
        of_chunks = {"policy": str(policy_dir(self.policy)), "strategy": self.strategy}
        return {
            self.robot_node: {"robot": self.robot, "seed": self.seed, "view_hz": self.view_hz},
            "model_node": {**of_chunks, "inference_delay_ms": self.inference_delay_ms},
            "policy_node": {**of_chunks, **of_robot, "task": self.task},
        }


class DemoWorld(Generic[Client]):
    """What both the demo and a measurement in its world do with the nodes.

    Its methods raise ValueError, with a node's last log line, where that node does not do as told.
    """

    def __init__(self, config: WorldConfig, client: Client, processes: Processes) -> None:
        self.client = client
        self.processes = processes
        self.config = config

    def start(self) -> None:
        """Bring every node up, and let the policy drive up to its first chunk, so that nothing later pays for first
        times."""
        started_s, domain, nodes = time.monotonic(), os.environ["ROS_DOMAIN_ID"], ", ".join(self.config.nodes)
        print(f"starting {nodes} in ROS domain {domain}; logs in {self.config.log_dir}", flush=True)
        for process in MANAGED:
            self.lead(CONFIGURE, process, START_TIMEOUT_S)
            self.lead(ACTIVATE, process, START_TIMEOUT_S)
        has_scenes = self.config.robot_node == "sim_node"
        if has_scenes and not self.client.wait_until(lambda: self.client.status is not None, START_TIMEOUT_S):
            raise ValueError(f"sim_node never started: {self.processes.last_line('sim_node')}")
        num_before = self.client.num_chunks
        self.engage(START_TIMEOUT_S)
        self.client.wait_until(lambda: self.client.num_chunks > num_before, ENGAGE_TIMEOUT_S)
        self.client.trigger(topics.HOLD.name)
        print(f"nodes are up after {time.monotonic() - started_s:.1f} s", flush=True)

    def start_model(self) -> None:
        """Start a model node again that was killed; it configures and activates itself."""
        self.processes.start_node("model_node", {**self.config.nodes["model_node"], "autostart": True})

    def new_scene(self, seed: int, target: str | None = None) -> Recording:
        """Set a scene up with the policy node fresh in HOLD; what arrives from here on is recorded."""
        # A reset teleports the arm, which no controller may see: the policy node forgets and starts anew.
        self.lead(DEACTIVATE)
        recording = self.client.start_episode(seed, target)
        self.lead(ACTIVATE)
        time.sleep(FIRST_FRAME_S)
        return recording

    def lead(self, transition: int, process: str = "policy_node", timeout_s: float = TRANSITION_TIMEOUT_S) -> None:
        """Have a managed node make a transition."""
        if not self.client.change_state(MANAGED[process], transition, timeout_s):
            raise ValueError(f"{process} could not be {DONE[transition]}: {self.processes.last_line(process)}")

    def engage(self, timeout_s: float = ENGAGE_TIMEOUT_S) -> None:
        """Engage as soon as the policy node is ready to: fresh images, joints, the instruction, the model."""
        deadline = time.monotonic() + timeout_s
        while True:
            response = self.client.trigger(topics.ENGAGE.name)
            if response.success:
                return
            if time.monotonic() > deadline:
                raise ValueError(f"policy_node refuses to engage after {timeout_s:g} s: {response.message}")
            self.processes.check()
            time.sleep(RETRY_S)


@contextmanager
def running_world(
    config: WorldConfig, make_client: Callable[[RobotConfig, Callable[[], None]], Client]
) -> Iterator[DemoWorld[Client]]:
    """Start the nodes in a ROS domain of their own, with a client of ``make_client``; they end whatever happens.

    Raises ValueError for a robot or a policy that cannot be used.
    """
    robot, nodes = load_robot(robot_file(config.robot)), config.nodes
    robot = replace(robot, control_rate_hz=config.control_rate_hz or robot.control_rate_hz)
    # Of this machine alone, unless the user has chosen one.
    os.environ.setdefault("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_default_dds_profile()  # before the children start, which inherit it
    interrupt_on_signals(signal.SIGHUP)
    with Processes(config.log_dir) as processes:
        for name, parameters in nodes.items():
            processes.start_node(name, parameters)
        with ros_running():
            client = make_client(robot, processes.check)
            with spinning(client):
                yield DemoWorld(config, client, processes)
