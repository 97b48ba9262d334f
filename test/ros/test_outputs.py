"""Commands go to controllers of either interface and are heard again as one: no graph is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROBOT_FILE
from std_msgs.msg import Float64MultiArray

from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import OutputConfig, RobotConfig, load_robot
from vla_ros.ros.endpoints import interface_class
from vla_ros.ros.outputs import CommandInputs, CommandOutputs
from vla_ros.runtime.limits import BrakingRamp

PERIOD_S = 0.02


class Wires:
    """In a node's place: what is published on a topic is taken at once by who subscribed to it with the same type."""

    def __init__(self) -> None:
        self.takers: dict[tuple[str, type], Callable[[Any, dict[str, Any]], None]] = {}
        self.lose = ""

    def create_subscription(self, kind: type, topic: str, take: Callable[..., None], profile: Any) -> None:
        self.takers[topic, kind] = take

    def create_publisher(self, kind: type, topic: str, profile: Any) -> Any:
        def publish(msg: Any) -> None:
            if topic != self.lose:
                self.takers[topic, kind](msg, {"source_timestamp": 7})

        return SimpleNamespace(publish=publish)


def robot_of(*outputs: OutputConfig) -> RobotConfig:
    return replace(load_robot(ROBOT_FILE), outputs=outputs)


NAMES = load_robot(ROBOT_FILE).joint_names
ARM_AND_HAND = robot_of(OutputConfig("hand", NAMES[-1:], "forward"), OutputConfig("arm", (NAMES[1], NAMES[0])))
RAMP = BrakingRamp(np.array([0.0, 0.1]), np.arange(6.0).reshape(2, 3), np.array([[0.1, 0.2, 0.3], [0.0] * 3]))


def heard_from(robot: RobotConfig, **options: Any) -> tuple[Wires, CommandOutputs, list[Trajectory]]:
    wires, heard = Wires(), []
    CommandInputs(wires, robot, lambda trajectory, info: heard.append(trajectory), **options)
    return wires, CommandOutputs(wires, robot, PERIOD_S), heard


def test_what_goes_to_an_arm_and_a_hand_is_one_command_of_all_joints() -> None:
    _, outputs, heard = heard_from(ARM_AND_HAND)
    outputs.publish(RAMP)
    (command,) = heard
    np.testing.assert_array_equal(command.positions, RAMP.positions[:1])
    assert command.times_s.tolist() == [PERIOD_S] and command.velocities is None


def test_a_robot_of_trajectories_alone_is_heard_with_its_braking_ramp() -> None:
    _, outputs, heard = heard_from(robot_of(OutputConfig("all", NAMES)))
    outputs.publish(RAMP)
    (command,) = heard
    np.testing.assert_array_equal(command.positions, RAMP.positions)
    np.testing.assert_array_equal(command.velocities, RAMP.velocities)
    np.testing.assert_allclose(command.times_s, PERIOD_S + RAMP.times_s)


def test_a_part_that_is_lost_costs_one_command_and_no_more() -> None:
    wires, outputs, heard = heard_from(ARM_AND_HAND)
    wires.lose = ARM_AND_HAND.outputs[1].command_topic
    outputs.publish(RAMP)
    wires.lose = ""
    outputs.publish(BrakingRamp(RAMP.times_s, RAMP.positions + 1.0, RAMP.velocities))
    assert [command.positions[0].tolist() for command in heard] == [(RAMP.positions[0] + 1.0).tolist()]


def test_what_no_controller_could_follow_is_told_or_raised() -> None:
    broken = BrakingRamp(RAMP.times_s, RAMP.positions * np.nan, RAMP.velocities)
    with pytest.raises(ValueError, match="not finite|finite ones"):
        heard_from(ARM_AND_HAND)[1].publish(broken)
    told: list[str] = []
    _, outputs, heard = heard_from(ARM_AND_HAND, on_refused=told.append)
    outputs.publish(broken)
    assert len(told) == 2 and not heard


def test_a_message_class_is_found_by_its_type() -> None:
    assert interface_class("std_msgs/msg/Float64MultiArray") is Float64MultiArray
