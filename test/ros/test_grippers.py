"""Grippers that are action servers: which goals they get, and what is told of those that come to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionServer
from rclpy.action.server import GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from ros_harness import ROBOT_FILE, wait_until
from spun_node import SpunNode

from vla_ros.robot import load_robot
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros import grippers
from vla_ros.ros.endpoints import interface_class
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.runtime.limits import BrakingRamp

pytestmark = pytest.mark.usefixtures("ros", "control_msgs")
PERIOD_S = 0.02
ARM = load_robot(ROBOT_FILE)
*ARM_JOINTS, FINGER = ARM.joint_names
KINDS = ("gripper_command", "parallel_gripper")
MIN_CHANGE, MAX_RATE_HZ, MAX_EFFORT = 0.05, 20.0, 7.0


class FakeGripper(SpunNode):
    """An action server that does with each goal what ``behaviour`` says; a newer goal ends the one before."""

    def __init__(self, name: str, kind: str, behaviour: str) -> None:
        node = rclpy.create_node(name)
        self.goals: list[Any] = []
        self.came_s: list[float] = []
        self._behaviour, self._kind = behaviour, interface_class(output_of(kind).kind.msgtype)
        self._newer = Future()
        action = (node, self._kind, output_of(kind, behaviour).command_topic, self._execute)
        self._server = ActionServer(*action, goal_callback=self._judge, callback_group=ReentrantCallbackGroup())
        super().__init__(node)
        self.start()

    def close(self) -> None:
        self.do(self._server.destroy)
        super().close()

    async def _judge(self, goal: Any) -> GoalResponse:
        if self._behaviour == "never answers":
            await Future()
        self.goals.append(goal.command)
        self.came_s.append(time.monotonic())
        self._newer.set_result(None)
        self._newer = Future()
        return GoalResponse.REJECT if self._behaviour == "rejects" else GoalResponse.ACCEPT

    async def _execute(self, handle: Any) -> Any:
        result = self._kind.Result()
        while self._behaviour == "takes long" and self.goals[-1] is handle.request.command:
            await self._newer
        if self._behaviour in ("aborts", "takes long"):
            handle.abort()
        elif self._behaviour == "stalls":
            result.stalled = True
            handle.abort()
        else:
            result.reached_goal = True
            handle.succeed()
        return result


def output_of(kind: str, behaviour: str = "") -> OutputConfig:
    topic = f"{kind}/{behaviour.replace(' ', '_')}"  # the graph still knows the servers of the tests before
    return OutputConfig("hand", (FINGER,), kind, topic, "tick", 1, MIN_CHANGE, MAX_RATE_HZ, MAX_EFFORT)


@contextmanager
def driven(kind: str, behaviour: str) -> Iterator[tuple[FakeGripper | None, CommandOutputs, list[str]]]:
    """The gripper's server, none where it is ``missing``, what drives it and the lines told of it."""
    robot = replace(ARM, outputs=(OutputConfig("arm", tuple(ARM_JOINTS)), output_of(kind, behaviour)))
    owner, lines = rclpy.create_node("owner"), list[str]()
    server = None if behaviour == "missing" else FakeGripper("gripper", kind, behaviour)
    outputs = CommandOutputs(owner, robot, PERIOD_S, lambda source, line: lines.append(line))
    outputs.start()
    try:
        if server is not None:
            wait_until(lambda: not outputs.refusal(), "the action server is discovered")
        yield server, outputs, lines
    finally:
        outputs.destroy()
        if server is not None:
            server.close()
        owner.destroy_node()


def move(outputs: CommandOutputs, position: float) -> None:
    ramp = BrakingRamp(np.zeros(1), np.array([[0.0] * len(ARM_JOINTS) + [position]]), np.zeros((1, ARM.num_joints)))
    outputs.publish(ramp, 0)


def position_of(command: Any) -> float:
    return command.position if isinstance(command.position, float) else command.position[0]


def moved_until(outputs: CommandOutputs, position: float, condition: Callable[[], Any], what: str) -> None:
    def holds() -> Any:
        move(outputs, position)
        return condition()

    wait_until(holds, what)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("behaviour", "named"),
    [
        ("stalls", "the gripper stalled on its way to 0.300"),
        ("aborts", "goal 0.300 was aborted; expected it reached"),
        ("rejects", "goal 0.300 was rejected; expected it accepted"),
        ("never answers", "goal 0.300 is not answered for"),
        ("missing", "nobody serves the action '/"),
    ],
)
def test_what_becomes_of_a_goal_is_told_in_one_line_by_its_output(kind: str, behaviour: str, named: str) -> None:
    with driven(kind, behaviour) as (_, outputs, lines):
        assert bool(outputs.refusal()) == (behaviour == "missing")
        moved_until(outputs, 0.3, lambda: lines, named)
        assert lines[0].startswith("output 'hand'") and named in lines[0] and "\n" not in lines[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gripper_gets_a_goal_only_where_its_set_point_has_moved_and_not_more_often_than_it_may(kind: str) -> None:
    with driven(kind, "takes long") as (server, outputs, lines):
        assert server is not None

        def is_beyond(position: float) -> bool:
            return bool(server.goals) and position_of(server.goals[-1]) > position

        for position in np.linspace(0.0, 1.0, 51):
            move(outputs, position)
            time.sleep(PERIOD_S)  # the rate at which commands come
        moved_until(outputs, 1.0, lambda: is_beyond(1.0 - MIN_CHANGE), "the last goal")
        num_before = len(server.goals)
        for trembling in (1.0, 1.0 - 0.9 * MIN_CHANGE) * 5:
            move(outputs, min(trembling, position_of(server.goals[-1]) + 0.9 * MIN_CHANGE))
            time.sleep(PERIOD_S)  # as above
        moved_until(outputs, 0.5, lambda: position_of(server.goals[-1]) == 0.5, "the goal of a motion")
        positions = np.array([position_of(goal) for goal in server.goals])
        assert len(positions) == num_before + 1, "it moved for less than min_change"
        assert (np.abs(np.diff(positions)) >= MIN_CHANGE - 1e-9).all()
        rate_hz = (len(positions) - 1) / (server.came_s[-1] - server.came_s[0])
        assert rate_hz <= 1.1 * MAX_RATE_HZ
        assert lines == [], "a goal that another one preempts is no news"


@pytest.mark.parametrize("kind", KINDS)
def test_a_goal_says_the_joint_and_the_effort_as_its_action_does(kind: str) -> None:
    with driven(kind, "succeeds") as (server, outputs, lines):
        assert server is not None
        moved_until(outputs, 0.3, lambda: server.goals, "a goal")
        goal = server.goals[0]
        if kind == "gripper_command":
            assert (goal.position, goal.max_effort) == (0.3, MAX_EFFORT)
        else:
            assert (goal.name, goal.position.tolist(), goal.effort.tolist()) == ([FINGER], [0.3], [MAX_EFFORT])
        assert lines == []


def test_a_set_point_that_nobody_stands_by_any_more_moves_no_gripper_that_comes_back() -> None:
    with driven(KINDS[0], "missing") as (_, outputs, lines):
        move(outputs, 0.3)
        wait_until(lambda: lines, "the server is missed, long after the set point")
        server = FakeGripper("late", KINDS[0], "missing")
        wait_until(lambda: not outputs.refusal(), "the action server is discovered")
        moved_until(outputs, 0.6, lambda: server.goals, "a goal")
        assert position_of(server.goals[0]) == 0.6
        server.close()


def test_a_gripper_without_the_package_of_its_action_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name.partition('/')[0]}'")

    monkeypatch.setattr(grippers, "interface_class", missing)
    with pytest.raises(ValueError) as refused:
        grippers.action_class(output_of("gripper_command"))
    assert str(refused.value) == (
        "output 'hand' of interface 'gripper_command': No module named 'control_msgs'; "
        "expected the package control_msgs: apt install ros-$ROS_DISTRO-control-msgs"
    )
