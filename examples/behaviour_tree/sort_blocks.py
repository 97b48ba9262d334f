"""A behaviour tree that has the policy touch one block after the other, and tries again where one attempt runs out of
time. It speaks to ``task_node`` alone (docs/tasks.md):

    pip install py_trees
    ros2 launch vla_ros demo.launch.py tasks:=true
    python sort_blocks.py
"""

from __future__ import annotations

import sys

import py_trees
import rclpy
from py_trees.behaviour import Behaviour
from py_trees.common import Status
from rclpy.action import ActionClient
from rclpy.node import Node

from vla_ros_msgs.action import RunTask

TICK_S = 0.1


class FollowInstruction(Behaviour):
    """RUNNING while the policy drives, SUCCESS or FAILURE as the task ends; interrupted, it cancels the task, and the
    robot holds."""

    def __init__(self, node: Node, instruction: str, **conditions: float | str) -> None:
        super().__init__(instruction)
        self._client = ActionClient(node, RunTask, "vla_policy/run_task")
        self._goal = RunTask.Goal(instruction=instruction, **conditions)

    def initialise(self) -> None:
        self._sent = self._result = None

    def update(self) -> Status:
        if self._sent is None:
            if self._client.server_is_ready():
                self._sent = self._client.send_goal_async(self._goal, self._hear)
            return Status.RUNNING
        if self._result is None:
            if not self._sent.done():
                return Status.RUNNING
            if not self._sent.result().accepted:
                self.feedback_message = "another task is not done yet"
                return Status.FAILURE
            self._result = self._sent.result().get_result_async()
        if not self._result.done():
            return Status.RUNNING
        result = self._result.result().result
        self.feedback_message = f"{result.outcome} after {result.seconds:.1f} s: {result.reason}"
        return Status.SUCCESS if result.outcome == RunTask.Result.SUCCESS else Status.FAILURE

    def terminate(self, new_status: Status) -> None:
        if (
            new_status is Status.INVALID
            and self._sent is not None
            and self._sent.done()
            and self._sent.result().accepted
        ):
            self._sent.result().cancel_goal_async()

    def _hear(self, message: RunTask.Impl.FeedbackMessage) -> None:
        feedback = message.feedback
        self.feedback_message = f"{feedback.mode}, {feedback.seconds:.1f} s {feedback.fault}"


def main() -> int:
    """Tick until the tree has ended: 0 where every block was touched."""
    rclpy.init()
    node = rclpy.create_node("mission")
    attempts = [
        py_trees.decorators.Retry(
            name=f"{color}, twice at most",
            num_failures=2,
            child=FollowInstruction(node, f"touch the {color} block", timeout_s=8.0, standstill_s=0.5),
        )
        for color in ("red", "green", "blue")
    ]
    root = py_trees.composites.Sequence("every block", memory=True, children=attempts)
    shown: list[Status] = []
    while root.status in (Status.INVALID, Status.RUNNING):
        root.tick_once()
        if (now := [behaviour.status for behaviour in root.iterate()]) != shown:
            shown = now
            print(py_trees.display.ascii_tree(root, show_status=True), flush=True)
        rclpy.spin_once(node, timeout_sec=TICK_S)
    print(root.status.name)
    rclpy.try_shutdown()
    return 0 if root.status is Status.SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main())
