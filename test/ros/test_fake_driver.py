"""The fake driver's grippers answer goals as a gripper's controller does: reached, replaced, cancelled, stalled."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from child_process import child_environment
from rclpy.action import ActionClient
from ros_harness import START_PATIENCE_S, NodeProcess, wait_until
from spun_node import SpunNode

from vla_ros.robot import load_robot
from vla_ros.ros.endpoints import interface_class
from vla_ros.share import robot_file

GRIPPER, STOP = "robotiq_85_left_knuckle_joint", 0.5
OPEN, CLOSED, START = 0.0, 0.8, 0.4


class Hand(SpunNode):
    """A client of the gripper's action server in a fake driver of ``robot``."""

    def __init__(self, robot: str) -> None:
        (output,) = [one for one in load_robot(robot_file(robot)).outputs if one.kind.is_gripper]
        node = rclpy.create_node("hand", namespace=robot)  # two actions by one name can't be in one process
        self._kind = interface_class(output.kind.msgtype)
        self._client = ActionClient(node, self._kind, output.command_topic)
        super().__init__(node)
        self.start()

    def wait(self) -> None:
        wait_until(self._client.server_is_ready, "the gripper", START_PATIENCE_S)

    def send(self, *positions: float) -> Any:
        """The handle of a goal that was sent."""
        goal = self._kind.Goal()
        is_parallel = hasattr(goal.command, "name")
        goal.command.position = list(positions) if is_parallel else positions[0]
        return self.answer(self._client.send_goal_async, goal)

    def result(self, handle: Any) -> tuple[int, bool, bool, float]:
        """Its status, whether it was reached and whether it stalled, and where the gripper then was."""
        answer = self.answer(handle.get_result_async)
        result = answer.result
        position = result.state.position[0] if hasattr(result, "state") else result.position
        return answer.status, result.reached_goal, result.stalled, position

    def answer(self, ask: Callable[..., Any], *args: Any) -> Any:
        """It is asked for in the thread that hears it: an action's client doesn't know of one that comes at once."""
        future = self.do(ask, *args)
        return wait_until(future.done, "an answer") and future.result()


@pytest.fixture(params=["ur5e_robotiq", "franka_droid"])
def make_hand(
    request: pytest.FixtureRequest, ros: None, control_msgs: None, tmp_path: Path
) -> Iterator[Callable[..., Hand]]:
    """Starts the fake driver of a robot, with something between its fingers or not."""
    hand, started = Hand(request.param), []

    def make(**parameters: object) -> Hand:
        parameters["robot"] = request.param
        started.append(NodeProcess("sim.fake_driver_node", tmp_path / "driver.log", parameters, request.param))
        hand.wait()
        return hand

    yield make
    codes = [driver.stop() for driver in started]
    hand.close()
    assert codes == [0], started[0].log


def test_a_goal_is_reached_replaced_or_cancelled(make_hand: Callable[..., Hand]) -> None:
    hand = make_hand()
    status, is_reached, is_stalled, position = hand.result(hand.send(CLOSED))
    assert (status, is_reached, is_stalled) == (GoalStatus.STATUS_SUCCEEDED, True, False)
    assert position == pytest.approx(CLOSED, abs=0.03)
    opening = hand.send(OPEN)
    closing = hand.send(CLOSED)
    assert hand.result(opening)[:2] == (GoalStatus.STATUS_ABORTED, False), "another goal replaced it"
    assert hand.result(closing)[0] == GoalStatus.STATUS_SUCCEEDED
    opening = hand.send(OPEN)
    hand.answer(opening.cancel_goal_async)
    status, is_reached, _, position = hand.result(opening)
    assert (status, is_reached) == (GoalStatus.STATUS_CANCELED, False) and position > OPEN


def test_something_between_the_fingers_stalls_it_and_nonsense_is_rejected(make_hand: Callable[..., Hand]) -> None:
    hand = make_hand(stops=f"{GRIPPER}={STOP}")
    assert not hand.send(float("nan")).accepted
    began_s = time.monotonic()
    status, is_reached, is_stalled, position = hand.result(hand.send(CLOSED))
    assert (status, is_reached, is_stalled, position) == (GoalStatus.STATUS_SUCCEEDED, False, True, STOP)
    assert time.monotonic() - began_s >= (STOP - START) / 0.5, "at the robot file's velocity"


def test_without_the_package_of_a_grippers_action_the_fake_driver_says_so_in_one_line() -> None:
    program = (
        "import sys; sys.modules['control_msgs'] = None\n"  # as where it isn't installed
        "from vla_ros.sim.fake_driver_node import main; main(['--ros-args', '-p', 'robot:=ur5e_robotiq'])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=child_environment())
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith("fake_driver_node: output 'gripper'") and "control-msgs" in line
