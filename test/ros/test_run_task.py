"""``vla_policy/run_task`` on real nodes: an instruction in, how it ended out; the robot holds when that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from ros_harness import ROBOT_FILE, START_PATIENCE_S, NodeProcess, wait_until
from std_msgs.msg import Bool

INSTRUCTION = "touch the blue block"


class Mission:
    """A program above the robot: sends goals, keeps what it hears of them."""

    def __init__(self, graph: Any, client: ActionClient, kind: Any) -> None:
        self.probe = graph.probe
        self._client, self._kind = client, kind
        self.feedback: list[Any] = []

    def send(self, instruction: str = INSTRUCTION, **conditions: Any) -> Any:
        """The goal's handle, accepted or not."""
        self.feedback.clear()
        goal = self._kind.Goal(instruction=instruction, **conditions)
        sent = self._client.send_goal_async(goal, lambda heard: self.feedback.append(heard.feedback))
        return wait_until(lambda: sent.done() and sent.result(), "an answer to the goal")

    def result(self, handle: Any, meanwhile: Callable[[], Any] = lambda: None) -> tuple[int, Any]:
        """Its status and result; ``meanwhile`` is done again and again."""
        result = handle.get_result_async()

        def is_over() -> bool:
            meanwhile()
            return result.done()

        wait_until(is_over, "the result")
        return result.result().status, result.result().result

    def drive(self, **conditions: Any) -> Any:
        """The handle of a goal for which the policy drives."""
        handle = self.send(**conditions)
        assert handle.accepted
        wait_until(lambda: self.probe.mode() == "POLICY", "the policy drives")
        return handle


@pytest.fixture(scope="module")
def task_node(vla_ros_msgs: None, module_graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    node = NodeProcess("tasks.node", tmp_path_factory.mktemp("logs") / "task_node.log", {"robot": ROBOT_FILE})
    yield node
    assert node.stop() == 0, node.log


@pytest.fixture
def mission(graph, task_node: NodeProcess) -> Iterator[Mission]:
    from vla_ros_msgs.action import RunTask

    probe = graph.probe
    client = probe.do(ActionClient, probe.node, RunTask, "vla_policy/run_task")
    wait_until(client.server_is_ready, "the action", START_PATIENCE_S)
    yield Mission(graph, client, RunTask)
    probe.do(client.destroy)


def test_a_task_ends_by_what_its_topic_says_with_its_instruction_followed(mission):
    probe = mission.probe
    with probe.publishing(Bool, "block/touched", QoSProfile(depth=1)) as touched:
        handle = mission.drive(success_topic="block/touched", timeout_s=60.0)
        wait_until(lambda: mission.feedback and mission.feedback[-1].seconds > 0, "feedback of its driving")
        second = mission.send("tidy up")
        assert not second.accepted, "one goal at a time"
        status, result = mission.result(handle, lambda: touched.publish(Bool(data=True)))
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, "success")
    assert result.reason == "'block/touched' says so" and result.seconds > 0
    assert probe.mode() == "HOLD", "what comes next may rely on it"


def test_a_task_that_is_not_done_in_time_ends_in_hold(mission):
    status, result = mission.result(mission.drive(timeout_s=1.0))
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "timeout")
    assert result.reason == "not done after 1 s" and result.seconds >= 1.0 and mission.probe.mode() == "HOLD"


def test_a_cancelled_task_ends_in_hold(mission):
    handle = mission.drive()
    handle.cancel_goal_async()
    status, result = mission.result(handle)
    assert (status, result.outcome) == (GoalStatus.STATUS_CANCELED, "canceled") and mission.probe.mode() == "HOLD"


def test_a_human_who_takes_over_ends_it_as_such_and_while_one_drives_none_begins(mission):
    probe = mission.probe
    handle = mission.drive()

    def push() -> None:
        probe.teleop(list(probe.positions))

    status, result = mission.result(handle, push)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "taken_over")

    def is_refused() -> bool:
        push()
        wait_until(lambda: push() or probe.mode() == "TELEOP", "the human drives")
        _, refused = mission.result(mission.send(), push)
        return (refused.outcome, refused.reason) == ("taken_over", "a human drives")

    wait_until(is_refused, "no task begins while a human drives")


def test_a_policy_that_lets_go_fails_it_with_the_reason(mission):
    probe = mission.probe
    handle = mission.drive()
    probe.silent.add(probe.robot.cameras[0].name)
    status, result = mission.result(handle)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "failure")
    assert "HOLD: " in result.reason and probe.robot.cameras[0].name in result.reason
    # And one that can't begin says what engage says.
    _, refused = mission.result(mission.send())
    assert refused.outcome == "failure" and "engage was refused: " in refused.reason


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"instruction": " "}, "instruction is empty"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"success_topic": "no topic/"}, "success_topic: "),
    ],
)
def test_what_cannot_be_done_ends_with_its_reason(mission, wrong, words):
    handle = mission.send(**({"instruction": INSTRUCTION} | wrong))
    status, result = mission.result(handle)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "failure")
    assert words in result.reason and "\n" not in result.reason and mission.probe.mode() == "HOLD"
