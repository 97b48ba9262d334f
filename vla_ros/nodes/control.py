"""Who drives: the control loop as the services, humans and the ticker reach it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.nodes.model_link import ModelLink
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.endpoints import serve
from vla_ros.ros.problems import Problems
from vla_ros.ros.rivals import Rivals
from vla_ros.runtime.loop import ESTOP_LATCHED, ControlLoop
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.types import Mode


class Control:
    """``loop`` and ``link`` while the node is active, None else, and there is no ``link`` without a policy; ``lock`` is
    held around every call of the loop.

    The emergency stop and the instruction outlive the loops. Methods that return text return the reason for a refusal,
    empty on success; ``why_inactive`` says why the node is not active, where there is a reason. Nobody drives while
    there are ``rivals``, and no policy while an output can't be driven.
    """

    def __init__(self, problems: Problems, rivals: Rivals, why_inactive: Callable[[], str]) -> None:
        self.lock = threading.Lock()
        self.loop: ControlLoop | None = None
        self.link: ModelLink | None = None
        self.task = ""
        self._problems = problems
        self._rivals = rivals
        self._why_inactive = why_inactive
        self._outputs_refusal: Callable[[], str] = str
        self._is_estop_pressed = self._is_estop_latched = False

    def begin(self, loop: ControlLoop, link: ModelLink | None, outputs_refusal: Callable[[], str]) -> None:
        """Make a fresh loop reachable: what the last one saw and commanded may belong to another pose.
        ``outputs_refusal`` says why not every output can be driven, where that is so."""
        self._outputs_refusal = outputs_refusal
        loop.sensors.task = self.task
        if link is not None:
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

    @property
    def rest(self) -> Mode:
        """The mode of a node that is not active: an emergency stop that nobody has reset is one then, too."""
        return Mode.ESTOP if self._is_estop_latched else Mode.HOLD

    def set_task(self, task: str) -> None:
        self.task = task.strip()
        if self.loop is not None:
            self.loop.sensors.task = self.task

    def offer_services(self, node: Node) -> None:
        """Engage, takeover, hold and reset_estop: each is done, or refused with the reason, which is logged, too."""
        for service, act, done in (
            (topics.ENGAGE, self.engage, lambda: "the policy drives"),
            (topics.TAKEOVER, self.takeover, lambda: "; ".join(filter(None, ("the human drives", self.waits())))),
            (topics.HOLD, self.hold, lambda: Mode.HOLD.value),
            (topics.RESET_ESTOP, self.reset_estop, lambda: Mode.HOLD.value),
        ):
            serve(node, service.private, partial(_answer, node, service.name.rpartition("/")[2], act, done))

    def engage(self) -> str:
        """Let the policy drive."""
        link = self.link
        if self.loop is not None and link is None:
            return "there is no policy (policy:=none); start the node with one"
        fault = None if link is None else link.fault()
        if fault is not None:
            return fault.line
        refusal = self._rivals.line or (self._outputs_refusal() if self.loop is not None else "")
        refusal = refusal or self._tell(lambda loop: loop.engage(steady_now_ns()))
        if link is not None and not refusal:
            link.wake()
        # Why a sensor is stale is often that what it sends was refused.
        problems = self._problems.current().items()
        causes = [line for source, line in problems if refusal and source in refusal and line != refusal]
        return "; ".join([refusal, *causes])

    def takeover(self) -> str:
        """Let the human drive."""
        return self._rivals.line or self._tell(lambda loop: loop.takeover(steady_now_ns()))

    def waits(self) -> str:
        """What a human who has the robot is waited for, in one line; empty where it is nothing."""
        return "" if self.loop is None else self._tell(lambda loop: loop.waits(steady_now_ns()))

    def look(self, loop: ControlLoop) -> None:
        """Hold where whoever drives no longer may, before each tick; ``lock`` is held."""
        if loop.mode in (Mode.POLICY, Mode.TELEOP) and self._rivals.line:
            loop.hold(self._rivals.line)
        elif loop.mode is Mode.POLICY and (refusal := self._outputs_refusal()):
            loop.hold(refusal)

    def hold(self) -> str:
        """Come to rest; a node that is not active holds anyway."""

        def hold(loop: ControlLoop) -> str:
            loop.hold("asked to hold", is_fault=False)
            return ESTOP_LATCHED if loop.mode is Mode.ESTOP else ""

        return "" if self.loop is None else self._tell(hold)

    def reset_estop(self) -> str:
        """From ESTOP to HOLD."""

        def reset(loop: ControlLoop) -> str:
            refusal = loop.reset_estop()
            self._is_estop_latched = self._is_estop_latched and bool(refusal)
            return refusal

        return self._tell(reset)

    def press_estop(self, is_pressed: bool) -> None:
        """What the emergency stop says now."""
        with self.lock:
            self._is_estop_pressed = is_pressed
            self._is_estop_latched = self._is_estop_latched or is_pressed
            if self.loop is not None:
                self.loop.press_estop(is_pressed)

    def offer_teleop(self, trajectory: TeleopTrajectory) -> str:
        """A human's trajectory."""
        refusal, link = self._rivals.line, self.link
        refusal = refusal or self._tell(lambda loop: loop.offer_teleop(trajectory, steady_now_ns()))
        if link is not None:
            link.wake()
        return refusal

    def reject_teleop(self, why: str, topic: str) -> None:
        """A human's message on ``topic`` that cannot be read."""
        with self.lock:
            if self.loop is not None:
                self.loop.reject_teleop(why, topic)

    def clock_jumped(self, jump_s: float) -> None:
        """ROS time has jumped by so much."""
        with self.lock:
            if self.loop is not None:
                self.loop.clock_jumped(f"ROS time jumped by {jump_s:+.2f} s", steady_now_ns())

    def _tell(self, act: Callable[[ControlLoop], str]) -> str:
        loop = self.loop
        if loop is None:
            why = self._why_inactive()
            return f"{topics.POLICY_NODE} is not active{': ' + why if why else ''}"
        with self.lock:
            return act(loop)


def _answer(
    node: Node,
    name: str,
    act: Callable[[], str],
    done: Callable[[], str],
    request: Trigger.Request,
    response: Trigger.Response,
) -> Trigger.Response:
    refusal = act()
    response.success, response.message = not refusal, refusal or done()
    if refusal:
        node.get_logger().warning(f"{name} refused: {refusal}")
    return response
