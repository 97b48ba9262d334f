"""``task_node``: the action ``vla_policy/run_task``, for behaviour trees and missions. It hears and asks what anybody
may hear and ask of the policy node, and costs its control loop nothing."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.messages.joints import joint_sample
from vla_ros.observing.buffers import SensorBuffers
from vla_ros.ros import qos
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import interface_class, make_client, make_publisher, make_steady_timer, subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.parameters import NodeParameters, robot_parameter
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.strict import explained, one_line
from vla_ros.tasks.run import Ending, Goal, Outcome, TaskRun
from vla_ros.types import Mode

PERIOD_S, FEEDBACK_STEPS = 0.05, 4
ANSWER_S = 2.0
# The instruction arrives before the policy is engaged with it.
SETTLE_S = 0.1
# Diagnostics come once a second: whoever let go says why in the next ones.
REASON_S = 1.5
INSTALL = "build the package vla_ros_msgs, which lies beside this one, in the same workspace"


@dataclass(frozen=True)
class TaskParams(NodeParameters):
    """Of ``task_node``."""

    robot: str = robot_parameter()


@dataclass
class _Active:
    """The goal that is followed: how far it is, and what its caller waits for."""

    handle: Any
    goal: Goal
    run: TaskRun
    since_s: float
    ended: Future
    subscription: Subscription | None = None
    engaging: Future | None = None
    is_engaged: bool = False
    outcome: Outcome | None = None
    num_steps: int = 0
    holding: list[Future] = field(default_factory=list)


class TaskNode(Node):
    """One goal at a time; all of it in the thread that spins it. Raises ValueError for a robot file that cannot be
    used, and where the action's package is not built."""

    def __init__(self) -> None:
        super().__init__("vla_task")
        params = declare_and_read(self, TaskParams)
        # In the folder that holds its sources these are found, as a package with nothing in it.
        with explained("", ImportError, AttributeError, after=f"; {INSTALL}"):
            self._kind = interface_class(topics.RUN_TASK.type)
        self._robot = load_robot_in_graph(self, robot_file(params.robot))
        self._joints = SensorBuffers(self._robot).joints
        self._active: _Active | None = None
        self._mode = self._why = self._fault = ""
        self._mode_s = self._why_s = 0.0
        self._tasks = make_publisher(self, topics.TASK)
        self._engage, self._hold = (make_client(self, service) for service in (topics.ENGAGE, topics.HOLD))
        subscribe(self, topics.MODE, self._on_mode)
        subscribe(self, topics.DIAGNOSTICS, self._on_diagnostics)
        for topic in self._robot.joint_topics:
            self.create_subscription(JointState, topic, partial(self._on_joints, topic), qos.JOINT_STATES)
        self._server = ActionServer(
            self,
            self._kind,
            topics.RUN_TASK.name,
            self._execute,
            goal_callback=self._judge,
            handle_accepted_callback=self._begin,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        make_steady_timer(self, PERIOD_S, self._step)

    def _judge(self, request: Any) -> GoalResponse:
        if self._active is None:
            return GoalResponse.ACCEPT
        self.get_logger().warning(
            f"a goal is refused: '{self._active.goal.instruction}' is not done; cancel that first"
        )
        return GoalResponse.REJECT

    def _begin(self, handle: Any) -> None:
        """What can't be done ends with its reason, which a rejected goal has not."""
        request, ended = handle.request, Future()
        handle.ended = ended
        refusal = {"": "nobody publishes a mode; does policy_node run?", Mode.ESTOP: "the emergency stop is latched"}
        try:
            goal = Goal(request.instruction, request.timeout_s, request.success_topic, request.standstill_s)
            if self._mode == Mode.TELEOP:
                ended.set_result((Outcome(Ending.TAKEN_OVER, "a human drives"), 0.0))
            elif self._mode in refusal:
                raise ValueError(refusal[self._mode])
            else:
                self._active = self._started(handle, goal, ended)
        except ValueError as error:
            ended.set_result((Outcome(Ending.FAILURE, one_line(error)), 0.0))
        handle.execute()

    def _started(self, handle: Any, goal: Goal, ended: Future) -> _Active:
        active = _Active(handle, goal, TaskRun(goal), time.monotonic(), ended)
        if goal.success_topic:

            def hear(msg: Bool) -> None:
                if msg.data:
                    active.run.done()

            with explained("success_topic: ", InvalidTopicNameException):
                active.subscription = self.create_subscription(Bool, goal.success_topic, hear, qos.WATCH)
        self._tasks.publish(String(data=goal.instruction))
        self.get_logger().info(f"'{one_line(goal.instruction, 80)}' begins")
        return active

    async def _execute(self, handle: Any) -> Any:
        outcome, seconds = await handle.ended
        if outcome.ending is Ending.CANCELED:
            handle.canceled()
        elif outcome.ending is Ending.SUCCESS:
            handle.succeed()
        else:
            handle.abort()
        return self._kind.Result(outcome=outcome.ending.value, reason=outcome.reason, seconds=seconds)

    def _step(self) -> None:
        active, now_s = self._active, time.monotonic()
        if active is None:
            return
        if active.outcome is None:
            active.outcome = self._advance(active, now_s)
            if active.outcome is None:
                active.num_steps += 1
                if active.num_steps % FEEDBACK_STEPS == 0:
                    seconds = active.run.seconds(now_s)
                    feedback = self._kind.Feedback(mode=self._mode, seconds=seconds, fault=self._fault)
                    active.handle.publish_feedback(feedback)
                return
            active.since_s = now_s
        self._finish(active, active.outcome, now_s)

    def _advance(self, active: _Active, now_s: float) -> Outcome | None:
        if active.handle.is_cancel_requested:
            return Outcome(Ending.CANCELED, "cancelled by who asked for it")
        if not active.is_engaged:
            return self._engaged(active, now_s)
        newest = self._joints.newest()
        if newest is not None:
            active.run.see(now_s, newest.positions)
        has_let_go = self._mode in (Mode.HOLD, Mode.ESTOP)
        if has_let_go and self._why_s < self._mode_s and now_s - self._mode_s < REASON_S:
            return None  # why is still to come
        return active.run.step(now_s, self._mode, self._why if self._why_s >= self._mode_s else "")

    def _engaged(self, active: _Active, now_s: float) -> Outcome | None:
        waited_s = now_s - active.since_s
        if active.engaging is None:
            if waited_s >= SETTLE_S and self._engage.service_is_ready():
                active.engaging = self._engage.call_async(Trigger.Request())
        elif active.engaging.done():
            answer = active.engaging.result()
            if not answer.success:
                return Outcome(Ending.FAILURE, f"engage was refused: {one_line(answer.message)}")
            active.is_engaged = True
            return None
        late = f"'{topics.ENGAGE}' gave no answer in {ANSWER_S:g} s; does policy_node run?"
        return Outcome(Ending.FAILURE, late) if waited_s > ANSWER_S else None

    def _finish(self, active: _Active, outcome: Outcome, now_s: float) -> None:
        """Told when the robot holds: what comes next may rely on it."""
        if self._mode == Mode.POLICY and now_s - active.since_s < ANSWER_S:
            if not active.holding and self._hold.service_is_ready():
                active.holding.append(self._hold.call_async(Trigger.Request()))
            return
        if self._mode == Mode.POLICY:
            outcome = Outcome(outcome.ending, f"{outcome.reason}; '{topics.HOLD}' was not followed, the policy drives")
        if active.subscription is not None:
            self.destroy_subscription(active.subscription)
        self._active = None
        self.get_logger().info(f"'{one_line(active.goal.instruction, 80)}' ends: {outcome.ending}, {outcome.reason}")
        active.ended.set_result((outcome, active.run.seconds(active.since_s)))

    def _on_mode(self, msg: String) -> None:
        if msg.data != self._mode:
            self._mode, self._mode_s = msg.data, time.monotonic()

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        name = f"{self.resolve_topic_name(topics.POLICY_NODE).lstrip('/')}: control"
        for status in msg.status:
            if status.name == name:
                values = {pair.key: pair.value for pair in status.values}
                problems = [line for key, line in values.items() if key.startswith("problem: ")]
                self._fault = one_line(values.get("fault") or "; ".join(problems))
                if values.get("mode") == self._mode:
                    self._why, self._why_s = one_line(values.get("why", "")), time.monotonic()

    def _on_joints(self, topic: str, msg: JointState) -> None:
        columns = self._robot.joint_columns[topic]
        try:
            sample = joint_sample(msg, columns, self._robot.num_joints, time.monotonic_ns())
        except ValueError as error:
            self.get_logger().warning(f"'{topic}': {error}", throttle_duration_sec=10.0)
            return
        if sample is not None:
            self._joints.add(sample)


def main(args: list[str] | None = None) -> int:
    """Run until a signal; exits 2 with one line where it cannot start."""
    stop = stop_on_signals()
    try:
        with ros_running(args):
            node = TaskNode()
            with spinning(node):
                stop.wait()
            node.destroy_node()
    except ValueError as error:
        print(f"task_node: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
