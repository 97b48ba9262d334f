"""The simulated robot in a ROS domain of its own, and a node that watches and drives it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from child_process import ChildProcess, child_environment
from ros_harness import START_PATIENCE_S
from sensor_msgs.msg import Image, JointState
from spun_node import SpunNode
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from waiting import wait_until

from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import CAMERA, COMMAND, JOINT_STATES, LATCHED, REPORT

SIM_DOMAIN = 1 + os.getpid() % 100


def sim_environment() -> dict[str, str]:
    """Of children in the simulation's domain."""
    return child_environment() | {"ROS_DOMAIN_ID": str(SIM_DOMAIN)}


class Child(ChildProcess):
    """A Python module in the simulation's domain."""

    def __init__(self, log: Path, arguments: Sequence[str]) -> None:
        super().__init__(log, arguments, sim_environment())


class SimGraph:
    """``sim_node`` and the node that watches it; leaving the ``with`` block ends both."""

    def __init__(self, robot: RobotConfig, folder: Path, *parameters: str) -> None:
        self.robot = robot
        assignments = [part for parameter in parameters for part in ("-p", parameter)]
        self.sim = Child(folder / "sim_node.log", ["vla_ros.sim.node", "--ros-args", *assignments])
        self.images: dict[str, list[Image]] = defaultdict(list)
        self.states: list[JointState] = []
        self.tasks: list[str] = []
        self.episodes: list[dict[str, Any]] = []
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=SIM_DOMAIN)
        node = rclpy.create_node("sim_watch", context=self._context)
        for camera in robot.cameras:
            node.create_subscription(Image, camera.topic, self.images[camera.name].append, CAMERA)
        node.create_subscription(JointState, robot.joint_sources[0].topic, self.states.append, JOINT_STATES)
        node.create_subscription(String, "vla_policy/task", lambda msg: self.tasks.append(msg.data), LATCHED)
        node.create_subscription(String, "sim/episode", lambda msg: self.episodes.append(json.loads(msg.data)), LATCHED)
        self._reset = node.create_publisher(String, "sim/reset", REPORT)
        self._command = node.create_publisher(JointTrajectory, robot.outputs[0].command_topic, COMMAND)
        self._watch = SpunNode(node)
        self._watch.start()

    def wait_until_up(self) -> None:
        wait_until(
            lambda: (
                self.states
                and self.episodes
                and all(one.get_subscription_count() for one in (self._reset, self._command))
            ),
            f"sim_node: {self.sim.log}",
            START_PATIENCE_S,
        )

    @property
    def positions(self) -> np.ndarray:
        """The newest joint positions, in the robot file's order."""
        return positions_by_name(self.states[-1], self.robot.joint_names)[0]

    def reset(self, text: str) -> None:
        self._reset.publish(String(data=text))

    def start_episode(self, **request: object) -> dict[str, Any]:
        """Reset, and what ``sim/episode`` says then."""
        before = self.episodes[-1]["episode"]
        self.reset(json.dumps(request))
        wait_until(lambda: self.episodes[-1]["episode"] > before, "a new episode")
        return self.episodes[-1]

    def command(
        self, joint_names: Sequence[str], positions: Sequence[float], time_s: float, velocity: float = 0.0
    ) -> None:
        """A trajectory of one point, ``time_s`` from now."""
        msg = JointTrajectory()
        rows = np.array([positions])
        point = Trajectory(0, np.array([time_s]), rows, np.full_like(rows, velocity))
        fill_trajectory(msg, point, joint_names, JointTrajectoryPoint)
        self._command.publish(msg)

    def __enter__(self) -> SimGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.sim.stop()
        self._watch.close()
        rclpy.shutdown(context=self._context)
        assert error is not None or code == 0, self.sim.log
