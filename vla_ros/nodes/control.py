"""The control loop as everybody around it reaches it: the ticker, the model link, services, humans."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vla_ros import topics
from vla_ros.nodes.model_link import ModelLink
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.problems import Problems
from vla_ros.runtime.loop import ESTOP_LATCHED, ControlLoop
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.types import Mode


class Control:
    """``loop`` and ``link`` while the node is active, None else; ``lock`` is held around every call of the loop.

    The emergency stop and the instruction outlive the loops. Methods that return a text give the reason for a refusal,
    empty where it is done; ``why_inactive`` says why the node is not active, where there is a reason.
    """

    def __init__(self, problems: Problems, why_inactive: Callable[[], str]) -> None:
        self.lock = threading.Lock()
        self.loop: ControlLoop | None = None
        self.link: ModelLink | None = None
        self.task = ""
        self._problems = problems
        self._why_inactive = why_inactive
        self._is_estop_pressed = self._is_estop_latched = False

    def begin(self, loop: ControlLoop, link: ModelLink) -> None:
        """Let everybody reach a fresh loop: whatever the last one saw and commanded may be of another pose."""
        loop.sensors.task = self.task
        link.attach(loop)
        with self.lock:
            self.loop, self.link = loop, link
            # What latched the emergency stop is over only when somebody says so.
            loop.press_estop(self._is_estop_latched)
            loop.press_estop(self._is_estop_pressed)

    def end(self) -> None:
        if self.link is not None:
            self.link.detach()
        self.loop = self.link = None

    def set_task(self, task: str) -> None:
        self.task = task.strip()
        if self.loop is not None:
            self.loop.sensors.task = self.task

    def engage(self) -> str:
        """Let the policy drive."""
        loop, link = self.loop, self.link
        if loop is None or link is None:
            return self._not_active()
        refusal = link.refusal()
        if not refusal:
            with self.lock:
                refusal = loop.engage(steady_now_ns())
            # Why a sensor is stale is often that what it sends was refused.
            causes = [line for source, line in self._problems.current().items() if refusal and source in refusal]
            refusal = "; ".join([refusal, *causes])
        if not refusal:
            link.wake()
        return refusal

    def takeover(self) -> str:
        """Let the human drive."""
        loop = self.loop
        if loop is None:
            return self._not_active()
        with self.lock:
            return loop.takeover(steady_now_ns())

    def hold(self) -> str:
        """Come to rest; a node that is not active holds anyway."""
        loop = self.loop
        if loop is None:
            return ""
        with self.lock:
            loop.hold("asked to hold", is_fault=False)
            return ESTOP_LATCHED if loop.mode is Mode.ESTOP else ""

    def reset_estop(self) -> str:
        """From ESTOP to HOLD."""
        loop = self.loop
        if loop is None:
            return self._not_active()
        with self.lock:
            refusal = loop.reset_estop()
            self._is_estop_latched = self._is_estop_latched and bool(refusal)
        return refusal

    def press_estop(self, is_pressed: bool) -> None:
        """What the emergency stop says now."""
        self._is_estop_pressed = is_pressed
        self._is_estop_latched = self._is_estop_latched or is_pressed
        loop = self.loop
        if loop is not None:
            with self.lock:
                loop.press_estop(is_pressed)

    def offer_teleop(self, trajectory: TeleopTrajectory) -> str:
        """A human's trajectory."""
        loop, link = self.loop, self.link
        if loop is None or link is None:
            return self._not_active()
        with self.lock:
            refusal = loop.offer_teleop(trajectory, steady_now_ns())
        link.wake()
        return refusal

    def clock_jumped(self, jump_s: float) -> None:
        """ROS time has jumped by so much."""
        loop = self.loop
        if loop is not None:
            with self.lock:
                loop.clock_jumped(f"ROS time jumped by {jump_s:+.2f} s", steady_now_ns())

    def _not_active(self) -> str:
        why = self._why_inactive()
        return f"{topics.POLICY_NODE} is not active{': ' + why if why else ''}"
