"""Grippers that are action servers: their set points become goals, few of them, and what becomes of those is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.task import Future

from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.endpoints import interface_class, new_message
from vla_ros.ros.managed import Role
from vla_ros.strict import explained
from vla_ros.units import NS_PER_S

MIN_CHANGE_SHARE, MAX_RATE_HZ = 0.01, 10.0
Report = Callable[[str, str], None]
STEP_S = 0.02
DISCOVERY_S = 3.0
ANSWER_S = 1.0
FRESH_S = 0.5
"""Nobody stands by a set point that is older: no goal is made of it."""
MAX_OPEN = 16
INSTALL = "; expected the package control_msgs: apt install ros-$ROS_DISTRO-control-msgs"


def action_class(output: OutputConfig) -> Any:
    """The action of a gripper's output. Raises ValueError where its package is not installed."""
    with explained(f"output '{output.name}' of interface '{output.interface}': ", ImportError, after=INSTALL):
        return interface_class(output.kind.msgtype)


class _Wanted(NamedTuple):
    whole: Trajectory
    told_ns: int


class Gripper:
    """One gripper: ``move`` says where it should be; a goal goes out in the thread of ``role`` where that is
    ``min_change`` from the goal before, at most ``max_rate_hz`` times a second. A newer goal preempts the one before by
    itself: to cancel that first would stop the gripper between them.

    ``refusal`` says in one line why it can't be moved, so that no policy should drive: nobody serves the action, or it
    rejected the newest goal, or didn't answer; empty where it can. ``report`` gets that by its output, too, and what
    stops nobody: a goal that is aborted, or stalls.
    """

    def __init__(self, role: Role, robot: RobotConfig, output: OutputConfig, report: Report) -> None:
        (self._column,) = robot.columns(output.joints)
        joint, kind = robot.joints[self._column], action_class(output)
        self._output, self._node = output, role.node
        self._source, self._report = f"output '{output.name}'", report
        self._min_change = output.min_change or MIN_CHANGE_SHARE * (joint.upper - joint.lower)
        self._period_ns = round(NS_PER_S / (output.max_rate_hz or MAX_RATE_HZ))
        self._name = role.topic(output.command_topic)
        self._client = ActionClient(role.node, kind, self._name)
        self._timer = role.node.create_timer(STEP_S, self._step, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._since_ns = steady_now_ns()
        self._missing = f"{self._source}: nobody serves the action '{self._name}'; start the gripper's controller"
        self.refusal = self._missing  # until it is discovered
        self._wanted: _Wanted | None = None
        self._goal: float | None = None  # the newest that was sent and not refused
        self._sent_ns = 0
        self._answer: Future[Any] | None = None  # to the newest goal, while it is waited for
        self._results: deque[Future[Any]] = deque()
        role.at_end(self._destroy)

    def move(self, whole: Trajectory) -> None:
        """Be where the first point of a trajectory of all joints has it."""
        self._wanted = _Wanted(whole, steady_now_ns())

    def _destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        self._client.destroy()

    def _step(self) -> None:
        now_ns, wanted = steady_now_ns(), self._wanted
        if not self._client.server_is_ready():
            self._forget()  # whoever comes back knows nothing of it
            self.refusal = self._missing
            if now_ns - self._since_ns > DISCOVERY_S * NS_PER_S:
                self._report(self._source, self._missing)
            return
        if self.refusal == self._missing:
            self.refusal = ""
        if self._answer is not None:
            self._wait(now_ns)
        elif wanted is not None and now_ns - self._sent_ns >= self._period_ns:
            position = float(wanted.whole.positions[0, self._column])
            has_moved = self._goal is None or abs(position - self._goal) >= self._min_change
            if has_moved and now_ns - wanted.told_ns <= FRESH_S * NS_PER_S:
                self._send(wanted.whole, position, now_ns)

    def _send(self, wanted: Trajectory, position: float, now_ns: int) -> None:
        own = Trajectory(0, wanted.times_s[:1], wanted.positions[:1, [self._column]], None)
        goal = self._output.kind.encode(new_message, own, self._output.message_names)
        if self._output.max_effort is not None:
            assert self._output.kind.set_effort is not None
            self._output.kind.set_effort(goal, self._output.max_effort)
        self._goal, self._sent_ns = position, now_ns
        self._answer = self._client.send_goal_async(goal)
        self._answer.add_done_callback(self._on_answer)

    def _forget(self) -> None:
        """The newest goal: the next set point is one again."""
        answer, self._answer, self._goal = self._answer, None, None
        if answer is not None:
            answer.cancel()

    def _wait(self, now_ns: int) -> None:
        age_s = (now_ns - self._sent_ns) / NS_PER_S
        if age_s > ANSWER_S:  # it may be lost: another is sent
            expected = f"expected within {ANSWER_S:g} s"
            self.refusal = self._tell(f"goal {self._goal:.3f} is not answered for {age_s:.1f} s; {expected}")
            self._forget()

    def _on_answer(self, answer: Future[Any]) -> None:
        if answer is not self._answer or answer.cancelled():
            return
        self._answer, handle, goal = None, answer.result(), self._goal
        if handle is None or not handle.accepted:
            self.refusal = self._tell(f"goal {goal:.3f} was rejected; expected it accepted: is the controller active?")
            # Not at once again: it would be rejected as fast as goals may come.
            self._goal, self._sent_ns = None, steady_now_ns() + round(ANSWER_S * NS_PER_S) - self._period_ns
            return
        self.refusal = ""
        result = handle.get_result_async()
        self._results.append(result)
        if len(self._results) > MAX_OPEN:  # of a server that never ends a goal
            self._results.popleft().cancel()
        result.add_done_callback(lambda result: self._on_result(result, goal))

    def _on_result(self, result: Future[Any], goal: float | None) -> None:
        if result in self._results:
            self._results.remove(result)
        if result.cancelled() or result.result() is None or goal != self._goal:  # preempted by a newer one
            return
        status, said = result.result().status, result.result().result
        if said.stalled:
            self._tell(f"the gripper stalled on its way to {goal:.3f}: it holds something, or is blocked")
        elif status != GoalStatus.STATUS_SUCCEEDED:
            what = "canceled" if status == GoalStatus.STATUS_CANCELED else "aborted"
            self._tell(f"goal {goal:.3f} was {what}; expected it reached: see the controller's log")

    def _tell(self, what: str) -> str:
        line = f"{self._source} on '{self._name}': {what}"
        self._report(self._source, line)
        return line
