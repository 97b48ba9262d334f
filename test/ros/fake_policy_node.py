"""What a node by which a human jogs talks to, in the policy node's place."""

from __future__ import annotations

import time
from array import array
from typing import Any

import numpy as np
import rclpy
from ros_harness import ROBOT_FILE
from sensor_msgs.msg import JointState
from spun_node import SpunNode
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros.robot import load_robot
from vla_ros.ros import qos

ROBOT = load_robot(ROBOT_FILE)
HERE = np.array([0.3, 0.2, 0.1])
SILENCE_S = 0.5


class FakePolicyNode(SpunNode):
    """Modes as the policy node has them: a teleop message takes over, silence holds, services answer."""

    def __init__(self) -> None:
        self.mode = "HOLD"
        self.refusals: dict[str, str] = {}
        self.calls: list[str] = []
        self.trajectories: list[JointTrajectory] = []
        self.received_s: list[float] = []
        self.estops: list[bool] = []
        self.marks: list[str] = []
        node = rclpy.create_node("vla_policy")
        self._mode = node.create_publisher(String, "~/mode", qos.LATCHED)
        self._joints = node.create_publisher(JointState, ROBOT.joint_sources[0].topic, qos.JOINT_STATES)
        node.create_subscription(JointTrajectory, "~/teleop", self._on_teleop, qos.COMMAND)
        node.create_subscription(Bool, "~/estop", self._on_estop, qos.LATCHED)
        node.create_subscription(String, "~/episode", lambda msg: self.marks.append(msg.data), qos.REPORT)
        for name, mode in (("takeover", "TELEOP"), ("engage", "POLICY"), ("hold", "HOLD"), ("reset_estop", "HOLD")):
            node.create_service(Trigger, f"~/{name}", lambda *args, call=(name, mode): self._answer(*call, *args))
        node.create_timer(0.02, self._publish)
        super().__init__(node)
        self.start()
        self.go_to("HOLD")

    def go_to(self, mode: str) -> None:
        self.mode = mode
        self._mode.publish(String(data=mode))

    def _on_teleop(self, msg: JointTrajectory) -> None:
        self.trajectories.append(msg)
        self.received_s.append(time.monotonic())
        if self.mode != "ESTOP":
            self.go_to("TELEOP")

    def _on_estop(self, msg: Bool) -> None:
        self.estops.append(msg.data)
        if msg.data:
            self.go_to("ESTOP")

    def _answer(self, name: str, mode: str, request: Any, response: Trigger.Response) -> Trigger.Response:
        self.calls.append(name)
        response.message = self.refusals.get(name, f"{mode} it is")
        response.success = name not in self.refusals
        if name == "reset_estop" and self.estops[-1]:
            response.success, response.message = False, "estop is still true"
        if response.success:
            self.go_to(mode)
        return response

    def _publish(self) -> None:
        msg = JointState(name=list(ROBOT.joint_names), position=array("d", HERE))
        msg.header.stamp = self.node.get_clock().now().to_msg()
        self._joints.publish(msg)
        if self.mode == "TELEOP" and self.received_s and time.monotonic() - self.received_s[-1] > SILENCE_S:
            self.go_to("HOLD")
