"""The simulated robot in a ROS domain of its own, and a node that watches and drives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from ros_harness import SOURCE_ROOT, wait_until
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import CAMERA, COMMAND, JOINT_STATES, LATCHED, REPORT

SIM_DOMAIN = 1 + os.getpid() % 100
START_PATIENCE_S = 60.0


def child_environment() -> dict[str, str]:
    """Children import the tree under test, in the simulation's domain."""
    path = os.pathsep.join([str(SOURCE_ROOT), os.environ.get("PYTHONPATH", "")])
    kept = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    return {**kept, "PYTHONPATH": path, "ROS_DOMAIN_ID": str(SIM_DOMAIN)}


class Child:
    """A Python module as a child process; ``log`` is what it printed."""

    def __init__(self, log: Path, arguments: Sequence[str]) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=file, stderr=subprocess.STDOUT, env=child_environment()
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        """Interrupt it as Ctrl-C does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(2)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


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
        self._node = node = rclpy.create_node("sim_watch", context=self._context)
        for camera in robot.cameras:
            node.create_subscription(Image, camera.topic, self.images[camera.name].append, CAMERA)
        node.create_subscription(JointState, robot.joint_sources[0].topic, self.states.append, JOINT_STATES)
        node.create_subscription(String, "vla_policy/task", lambda msg: self.tasks.append(msg.data), LATCHED)
        node.create_subscription(String, "sim/episode", lambda msg: self.episodes.append(json.loads(msg.data)), LATCHED)
        self._reset = node.create_publisher(String, "sim/reset", REPORT)
        self._command = node.create_publisher(JointTrajectory, robot.outputs[0].command_topic, COMMAND)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def wait_until_up(self) -> None:
        wait_until(
            lambda: self.states and self.episodes and self._command.get_subscription_count(),
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
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
        assert error is not None or code == 0, self.sim.log
