"""Leads the demo's nodes while faults are injected: a human's hand and stop, what the nodes say, and garbage."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from drive_watch import DriveWatch
from human_ways import Make
from limit_watch import LimitWatch
from rclpy.event_handler import PublisherEventCallbacks
from sensor_relay import PREFIX, joints_topic
from std_msgs.msg import Bool, String, UInt8MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.demo.client import DemoClient
from vla_ros.demo.stats import Recording
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import COMMAND, LATCHED, REPORT
from vla_ros.wire import REQUEST, PolicyResult, check_kind, decode_request, encode_result

WATCHED = ("vla_policy: control", "vla_model: inference")
SERVICES = ("vla_policy/takeover", "vla_policy/reset_estop")
OTHER_DIGEST = "0" * 64
STOP_PERIOD_S = 0.1
STOP_TIMEOUT_S = 4.0
"""The policy node's ``estop_timeout_s``: more than it is ever away."""

Answer = Callable[[tuple[int, ...]], np.ndarray]


class FaultClient(DemoClient):
    """``limits`` judges every command, ``drives`` who drives and from where; while ``is_stop_heard`` the stop says
    again and again whether it is pressed. ``answer``, if set, answers requests before the model can, with actions made
    for their shape, in the name of policy ``answer_digest``, or of the model's own where that is empty."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self.limits = LimitWatch(self, robot)
        self.drives = DriveWatch(self, robot, PREFIX + joints_topic(robot))
        self.answer: Answer | None = None
        self.answer_digest = ""
        self._digest = ""
        self.last_request = b""
        self._modes: set[str] = set()
        self._said: dict[str, DiagnosticStatus] = {}
        self._model_ready_s = 0.0
        self._status: DiagnosticStatus | None = None
        self._triggers |= {name: self.create_client(Trigger, name) for name in SERVICES}
        self._teleop = self.create_publisher(JointTrajectory, "vla_policy/teleop", COMMAND)
        silent = PublisherEventCallbacks(use_default_callbacks=False)  # of who hears another one
        self._stops = [
            self.create_publisher(Bool, topics.ESTOP.name, profile, event_callbacks=silent)
            for profile in (LATCHED, COMMAND)
        ]
        self._stop, self._is_pressed, self.is_stop_heard = self._stops[False], False, True
        self.create_timer(STOP_PERIOD_S, self._beat_stop)
        self._task = self.create_publisher(String, "vla_policy/task", LATCHED)
        self._requests = self.create_publisher(UInt8MultiArray, "vla_model/request", COMMAND)
        self._results = self.create_publisher(UInt8MultiArray, "vla_model/result", COMMAND)
        self._heartbeat = self.create_publisher(DiagnosticStatus, "vla_model/status", COMMAND)
        self.create_subscription(UInt8MultiArray, "vla_model/request", self._keep_request, COMMAND)
        self.create_subscription(DiagnosticStatus, "vla_model/status", self._keep_status, COMMAND)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep_diagnostics, REPORT)

    @property
    def modes(self) -> set[str]:
        """Every mode since ``listen_anew``."""
        with self._changed:
            return {self.mode, *self._modes}

    def listen_anew(self) -> None:
        """Forget what was said so far."""
        with self._changed:
            self._said.clear()
            self._modes.clear()

    def said(self) -> str:
        """What both nodes last said on ``/diagnostics`` since ``listen_anew``, in one line."""
        with self._changed:
            fault = self._values().get("fault", "")
            lines = [status.message for status in self._said.values()]
        return "; ".join([*lines, *([fault] if fault else [])])

    def is_model_ready_since(self, since_s: float) -> bool:
        """Whether a model node that can serve was heard after ``since_s`` on the monotonic clock."""
        return self._model_ready_s > since_s

    def start_episode(self, seed: int, target: str | None, timeout_s: float = 5.0) -> Recording:
        """As the demo does it; it moves the arm without a command."""
        self.limits.new_segment()
        self.drives.new_segment()
        return super().start_episode(seed, target, timeout_s)

    def trigger(self, service: str, timeout_s: float = 5.0) -> Trigger.Response:
        """As the demo does it; who asks the policy to drive is written down."""
        if service == topics.ENGAGE.name:
            self.drives.asked()
        return super().trigger(service, timeout_s)

    def say_task(self, task: str) -> None:
        self._task.publish(String(data=task))

    def press_estop(self, is_pressed: bool, is_volatile: bool = False) -> None:
        """Press or let go, by a publisher of ROS's default quality of service where it is to be ``is_volatile``."""
        self._is_pressed, self._stop = is_pressed, self._stops[is_volatile]
        self._beat_stop()

    def lead(self, make: Make, nudge_rad: float) -> None:
        """A hand's message, its set point so far from the last command, towards the middle."""
        assert self.commanded is not None
        positions = self.commanded.positions[0]
        middle = (self.robot.joint_values("lower") + self.robot.joint_values("upper")) / 2
        self._teleop.publish(make(self.robot, positions + nudge_rad * np.sign(middle - positions)))

    def send_link(self, data: bytes) -> None:
        """Bytes on both topics of the link."""
        for publisher in (self._requests, self._results):
            publisher.publish(UInt8MultiArray(data=array("B", data)))

    @property
    def heartbeat(self) -> DiagnosticStatus:
        """The model node's last one."""
        assert self._status is not None
        return self._status

    def beat_as_another_policy(self) -> None:
        """A model node's heartbeat with another policy's digest."""
        values = [KeyValue(key="digest", value=OTHER_DIGEST)]
        self._heartbeat.publish(DiagnosticStatus(level=DiagnosticStatus.OK, name=self.heartbeat.name, values=values))

    def _beat_stop(self) -> None:
        if self.is_stop_heard:
            self._stop.publish(Bool(data=self._is_pressed))

    def _values(self) -> Mapping[str, str]:
        status = self._said.get(WATCHED[0])
        return {value.key: value.value for value in status.values} if status is not None else {}

    def _on_mode(self, msg: String, info: dict[str, Any]) -> None:
        self._modes.add(msg.data)
        self.drives.heard_mode(msg.data, info["source_timestamp"])
        super()._on_mode(msg, info)

    def _keep_request(self, msg: UInt8MultiArray) -> None:
        self.last_request = data = bytes(msg.data)
        answer = self.answer
        if answer is None:
            return
        try:
            stamp_ns = int(check_kind(data, REQUEST)["stamp_ns"])
            actions = answer(decode_request(data).tensors["noise"].shape)
        except ValueError:  # our own garbage
            return
        result = PolicyResult(stamp_ns, self.answer_digest or self._digest, actions, 1.0, {})
        self._results.publish(UInt8MultiArray(data=array("B", encode_result(result))))

    def _keep_status(self, msg: DiagnosticStatus) -> None:
        digest = next((value.value for value in msg.values if value.key == "digest"), "")
        if digest == OTHER_DIGEST:
            return
        self._status = msg
        if msg.level == DiagnosticStatus.OK:
            self._digest, self._model_ready_s = digest, time.monotonic()

    def _keep_diagnostics(self, msg: DiagnosticArray) -> None:
        with self._changed:
            self._said |= {status.name: status for status in msg.status if status.name in WATCHED}
            self._changed.notify_all()
