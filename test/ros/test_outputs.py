"""Commands go to controllers of either interface and are heard again as one: no graph is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from controller_motion import motion_use, sine_scene
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.parameter import Parameter
from rclpy.task import Future
from ros_harness import ROBOT_FILE
from std_msgs.msg import Float64MultiArray

from vla_ros.messages.trajectories import Trajectory
from vla_ros.nodes.control import Control
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros import grippers, signals
from vla_ros.ros.endpoints import interface_class
from vla_ros.ros.outputs import CommandInputs, CommandOutputs
from vla_ros.runtime.limits import BrakingRamp
from vla_ros.share import robot_file
from vla_ros.sim import fake_driver_node
from vla_ros.sim.fake_driver import FakeDriver
from vla_ros.types import Mode

PERIOD_S = 0.02
PERIOD_NS, TICK_NS = 20_000_000, 1_700_000_000_000_000_000


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
    outputs.publish(RAMP, TICK_NS)
    (command,) = heard
    np.testing.assert_array_equal(command.positions, RAMP.positions[:1])
    assert command.times_s.tolist() == [PERIOD_S] and command.velocities is None


def test_a_robot_of_trajectories_alone_is_heard_with_its_braking_ramp() -> None:
    _, outputs, heard = heard_from(robot_of(OutputConfig("all", NAMES)))
    outputs.publish(RAMP, TICK_NS)
    (command,) = heard
    np.testing.assert_array_equal(command.positions, RAMP.positions)
    np.testing.assert_array_equal(command.velocities, RAMP.velocities)
    np.testing.assert_allclose(command.times_s, PERIOD_S + RAMP.times_s)


@pytest.mark.parametrize(
    ("stamp", "tick_ns", "stamp_ns"), [("tick", TICK_NS, TICK_NS), ("zero", TICK_NS, 0), ("tick", -5, 0)]
)
def test_a_command_is_stamped_with_its_tick_or_starts_on_receipt(stamp: str, tick_ns: int, stamp_ns: int) -> None:
    _, outputs, heard = heard_from(robot_of(OutputConfig("all", NAMES, stamp=stamp)))
    outputs.publish(RAMP, tick_ns)
    assert heard[0].stamp_ns == stamp_ns and heard[0].times_s[0] == PERIOD_S


def test_two_periods_ahead_a_command_comes_behind_the_one_of_the_tick_before() -> None:
    _, outputs, heard = heard_from(robot_of(OutputConfig("all", NAMES, lead_periods=2)))
    later = BrakingRamp(RAMP.times_s, RAMP.positions + 1.0, RAMP.velocities)
    for tick, ramp in ((0, RAMP), (1, later), (3, RAMP)):
        outputs.publish(ramp, TICK_NS + tick * PERIOD_NS)
    alone, behind, after_a_missed_tick = heard
    np.testing.assert_allclose(alone.times_s, 2 * PERIOD_S + RAMP.times_s)
    np.testing.assert_allclose(behind.times_s, [PERIOD_S, *(2 * PERIOD_S + RAMP.times_s)])
    np.testing.assert_array_equal(behind.positions, [RAMP.positions[0], *later.positions])
    np.testing.assert_array_equal(behind.velocities, [RAMP.velocities[0], *later.velocities])
    assert behind.stamp_ns == TICK_NS + PERIOD_NS
    np.testing.assert_allclose(after_a_missed_tick.times_s, alone.times_s)


LATE_S = np.abs(np.random.default_rng(0).normal(0.0, 1.71e-3 / 2.576, 500))


@pytest.mark.parametrize(
    ("options", "late_s", "is_good"),
    [
        ({}, LATE_S, True),
        ({"stamp": "zero"}, LATE_S, False),
        ({"lead_periods": 2}, 8 * LATE_S, True),
        ({}, 8 * LATE_S, False),
    ],
)
def test_the_motion_that_late_commands_cause_keeps_near_the_limits(
    options: dict[str, Any], late_s: np.ndarray, is_good: bool
) -> None:
    robot = load_robot(robot_file("tabletop"))
    use = motion_use([sine_scene(robot, late_s, **options)], robot)
    assert use.is_good == is_good and not use.num_refused, use


def test_a_part_that_is_lost_costs_one_command_and_no_more() -> None:
    wires, outputs, heard = heard_from(ARM_AND_HAND)
    wires.lose = ARM_AND_HAND.outputs[1].command_topic
    outputs.publish(RAMP, TICK_NS)
    wires.lose = ""
    outputs.publish(BrakingRamp(RAMP.times_s, RAMP.positions + 1.0, RAMP.velocities), TICK_NS)
    assert [command.positions[0].tolist() for command in heard] == [(RAMP.positions[0] + 1.0).tolist()]


@pytest.mark.parametrize("lost", [0, 1], ids=["first", "second"])
def test_parts_of_two_ticks_are_never_one_command(lost: int) -> None:
    robot = robot_of(OutputConfig("hand", NAMES[-1:], topic="hand"), OutputConfig("arm", NAMES[:2], topic="arm"))
    wires, outputs, heard = heard_from(robot)
    wires.lose = robot.outputs[lost].command_topic
    outputs.publish(RAMP, TICK_NS)
    wires.lose = ""
    for tick in (1, 2):
        later = BrakingRamp(RAMP.times_s, RAMP.positions + tick, RAMP.velocities)
        outputs.publish(later, TICK_NS + tick * PERIOD_NS)
    assert [command.positions[0].tolist() for command in heard] == [
        (RAMP.positions[0] + tick).tolist() for tick in (1, 2)
    ]


def test_what_no_controller_could_follow_is_told_or_raised() -> None:
    broken = BrakingRamp(RAMP.times_s, RAMP.positions * np.nan, RAMP.velocities)
    with pytest.raises(ValueError, match="not finite|finite ones"):
        heard_from(ARM_AND_HAND)[1].publish(broken, TICK_NS)
    told: list[str] = []
    _, outputs, heard = heard_from(ARM_AND_HAND, on_refused=told.append)
    outputs.publish(broken, TICK_NS)
    assert len(told) == 2 and not heard


def test_a_message_class_is_found_by_its_type() -> None:
    assert interface_class("std_msgs/msg/Float64MultiArray") is Float64MultiArray


def test_a_velocity_controller_gets_the_velocities_of_each_command_and_none_where_commands_end() -> None:
    robot = robot_of(OutputConfig("arm", NAMES[:2], "velocity"), OutputConfig("hand", NAMES[2:]))
    wires, told, heard = Wires(), [], []
    CommandInputs(wires, robot, lambda trajectory, info: heard.append(trajectory))
    wires.create_subscription(Float64MultiArray, robot.outputs[0].command_topic, lambda msg, _: told.append(msg), None)
    outputs = CommandOutputs(wires, robot, PERIOD_S)
    outputs.publish(RAMP, TICK_NS)
    np.testing.assert_array_equal(heard[0].positions, RAMP.positions)
    outputs.halt()
    assert [msg.data.tolist() for msg in told] == [RAMP.velocities[0, :2].tolist(), [0.0, 0.0]]


def test_nobody_engages_where_an_output_cannot_be_driven() -> None:
    line = "output 'hand': nobody serves the action '/hand'; start the gripper's controller"
    problems: Any = SimpleNamespace(current=lambda: {"output 'hand'": line})
    control = Control(problems, SimpleNamespace(line=""), str)  # type: ignore[arg-type]
    loop: Any = SimpleNamespace(
        engage=lambda now_ns: "", sensors=SimpleNamespace(), press_estop=lambda is_pressed: None
    )
    link: Any = SimpleNamespace(fault=lambda: None, wake=lambda: None, attach=lambda loop: None)
    control.begin(loop, link, lambda: line)
    assert control.engage() == line
    control.begin(loop, link, str)
    assert control.engage() == ""


@pytest.mark.parametrize(("mode", "is_held"), [(Mode.POLICY, True), (Mode.TELEOP, False), (Mode.HOLD, False)])
def test_a_policy_that_drives_is_held_where_an_output_cannot_be_driven_any_more(mode: Mode, is_held: bool) -> None:
    line = "output 'hand' on '/hand': goal 0.300 was rejected"
    why: list[str] = []
    control = Control(SimpleNamespace(), SimpleNamespace(line=""), str)  # type: ignore[arg-type]
    loop: Any = SimpleNamespace(
        mode=mode, hold=why.append, sensors=SimpleNamespace(), press_estop=lambda is_pressed: None
    )
    control.begin(loop, None, lambda: line)
    control.look(loop)
    assert why == [line] * is_held


def test_a_fake_driver_without_the_package_of_a_grippers_action_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name.partition('/')[0]}'")

    for module in (grippers, fake_driver_node):
        monkeypatch.setattr(module, "interface_class", missing)
    robot = robot_of(OutputConfig("arm", NAMES[:-1]), OutputConfig("hand", NAMES[-1:], "gripper_command"))
    with pytest.raises(ValueError, match="^output 'hand' of .* expected the package control_msgs: apt install"):
        fake_driver_node._GripperServer(None, robot.outputs[1], FakeDriver(robot))  # type: ignore[arg-type]


def test_a_parameter_that_ros_refuses_ends_a_node_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "start_ros", lambda args: None)
    monkeypatch.setattr(signals.rclpy, "try_shutdown", lambda: None)
    with pytest.raises(ValueError, match="parameter 'robot' to '3' of type 'INTEGER'"), signals.ros_running():
        raise InvalidParameterTypeException(Parameter("robot", value=3), "STRING")


class Action:
    """In the place of a gripper's client: what its server says is up to the test."""

    def __init__(self, node: Any, kind: Any, name: str) -> None:
        self.is_there, self.answers = True, list[Future]()

    def server_is_ready(self) -> bool:
        return self.is_there

    def send_goal_async(self, goal: Any) -> Future:
        self.answers.append(Future())
        return self.answers[-1]


@pytest.fixture
def gripper(monkeypatch: pytest.MonkeyPatch) -> tuple[Action, Callable[[], None], grippers.Gripper, list[str]]:
    """One that is to be at 0.3, its server, its next step, and what is told of it."""
    monkeypatch.setattr(grippers, "ActionClient", Action)
    monkeypatch.setattr(grippers, "action_class", lambda output: None)
    monkeypatch.setattr(grippers, "new_message", lambda name: SimpleNamespace(command=SimpleNamespace()))
    steps: list[Callable[[], None]] = []
    node = SimpleNamespace(create_timer=lambda period_s, step, clock: steps.append(step))
    role: Any = SimpleNamespace(node=node, topic=str, at_end=lambda end: None)
    output, lines = OutputConfig("hand", NAMES[-1:], "gripper_command", max_rate_hz=1e9), list[str]()
    robot = robot_of(OutputConfig("arm", NAMES[:-1]), output)
    hand = grippers.Gripper(role, robot, output, lambda source, line: lines.append(line))
    hand.move(Trajectory(0, np.zeros(1), np.full((1, robot.num_joints), 0.3), None))
    return hand._client, steps[0], hand, lines


def test_a_goal_that_was_not_answered_when_its_server_went_is_forgotten_and_sent_again(gripper: Any) -> None:
    server, step, hand, lines = gripper
    assert "nobody serves the action" in hand.refusal
    step()
    assert hand.refusal == "" and len(server.answers) == 1
    server.is_there = False
    step()
    assert "nobody serves the action" in hand.refusal
    server.answers[0].set_result(SimpleNamespace(accepted=False))  # it comes late, and is about nothing
    server.is_there = True
    step()
    assert hand.refusal == "" and len(server.answers) == 2 and not lines


def test_a_gripper_that_rejects_or_never_answers_is_refused_until_it_accepts(
    gripper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, step, hand, lines = gripper
    monkeypatch.setattr(grippers, "ANSWER_S", 0.0)
    step()
    step()
    assert "goal 0.300 is not answered for" in hand.refusal
    step()
    assert len(server.answers) == 2 and hand.refusal == lines[-1]
    server.answers[1].set_result(SimpleNamespace(accepted=False))
    assert "goal 0.300 was rejected" in hand.refusal and hand.refusal == lines[-1]
    step()
    server.answers[2].set_result(SimpleNamespace(accepted=True, get_result_async=Future))
    assert hand.refusal == "" and len(lines) == 2
