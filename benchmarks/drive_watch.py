"""A second judge beside ``limit_watch``, by messages alone: who drives, and whether the arm is there to be driven."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState

from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import EVERYTHING, JOINT_STATES
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

GRACE_NS = NS_PER_S // 2
"""An arm that leaves where it is commanded is braked and left alone within this; longer ago nobody knows where it
was."""


class DriveWatch:
    """``num_unasked`` times the policy drove without being asked since it last did; ``num_away`` commands were further
    from the measured pose than ``max_tracking_error`` though the arm had long left. ``first_wrong`` tells of the
    first."""

    def __init__(self, node: Node, robot: RobotConfig, joints_topic: str) -> None:
        self.num_unasked = self.num_away = 0
        self.first_wrong = ""
        self._robot = robot
        self._lock = threading.Lock()
        self._measured, self._measured_ns = np.zeros(robot.num_joints), 0
        self._near_ns = self._asked_ns = self._left_ns = 0
        self._mode = ""
        node.create_subscription(JointState, joints_topic, self._on_joints, JOINT_STATES)
        CommandInputs(node, robot, self._on_command, EVERYTHING)

    def asked(self) -> None:
        """Somebody asks for the policy to drive, now."""
        self._asked_ns = time.time_ns()

    def heard_mode(self, mode: str, sent_ns: int) -> None:
        """What the policy node says."""
        if mode == Mode.POLICY and self._asked_ns <= self._left_ns:
            self.num_unasked += 1
            self._tell(f"the policy drove without being asked, after {self._mode}")
        elif self._mode == Mode.POLICY and mode != Mode.POLICY:
            self._left_ns = sent_ns
        self._mode = mode

    def new_segment(self) -> None:
        """The arm was moved by something else than a command, and whoever commands it begins anew."""
        with self._lock:
            self._measured_ns = 0

    def _on_joints(self, msg: JointState) -> None:
        try:
            measured, _ = positions_by_name(msg, self._robot.joint_names)
        except ValueError:  # spoiled
            return
        with self._lock:
            self._measured, self._measured_ns = measured, time.time_ns()

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        sent_ns = info["source_timestamp"]
        with self._lock:
            gaps = np.abs(trajectory.positions[0] - self._measured)
            is_known = abs(sent_ns - self._measured_ns) <= GRACE_NS
            if not is_known or (gaps <= self._robot.max_tracking_errors).all():
                self._near_ns = sent_ns
            elif sent_ns - self._near_ns > GRACE_NS:
                self.num_away += 1
                self._tell(f"a command is {np.round(gaps, 2).tolist()} from where the arm is measured")

    def _tell(self, wrong: str) -> None:
        self.first_wrong = self.first_wrong or f"{time.strftime('%H:%M:%S')}: {wrong}"
