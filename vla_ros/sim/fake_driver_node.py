"""``fake_driver_node``: the drivers of any robot file, without a robot: its joint states, cameras and controllers."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros.messages.images import encode_compressed_image, encode_image
from vla_ros.messages.joints import fill_joint_state
from vla_ros.messages.times import fill_time
from vla_ros.messages.trajectories import Trajectory
from vla_ros.outputs import INTERFACES
from vla_ros.robot import CameraConfig, JointStateConfig, OutputConfig, RobotConfig, load_robot
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import interface_class, make_steady_timer
from vla_ros.ros.grippers import action_class
from vla_ros.ros.managed import spinning
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.qos import CAMERA, COMMAND, JOINT_STATES
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.sim.fake_driver import FakeDriver, Gripper, Outcome, pictures
from vla_ros.strict import one_line
from vla_ros.units import NS_PER_S

CAMERA_RATE_HZ = 30.0
"""Of a camera whose rate the robot file doesn't say."""
GRIPPER_CHECKS_HZ = 20.0


@dataclass(frozen=True)
class FakeDriverParams(NodeParameters):
    """Of ``fake_driver_node``."""

    robot: str = robot_parameter()
    joint_states_rate_hz: float = parameter(
        0.0, "Joint states per second; 0: the robot's control_rate_hz.", unit="Hz", low=1.0, high=1000.0, or_zero=True
    )
    lag_s: float = parameter(
        0.0, "How far joints are behind their controllers, as a first-order lag.", unit="s", low=0.0, high=1.0
    )
    speed_scaling: float = parameter(
        1.0, "What a slider on a pendant does: the share of full speed.", low=0.0, high=1.0, in_launch=False
    )
    stops: str = parameter(
        "", "Where something stops grippers: JOINT=POSITION, rad or m, several with commas.", in_launch=False
    )

    @property
    def stop_positions(self) -> dict[str, float]:
        """``stops`` by joint. Raises ValueError for what isn't one."""
        try:
            return {
                name: float(value) for name, _, value in (part.partition("=") for part in self.stops.split(",") if part)
            }
        except ValueError as error:
            raise ValueError(
                f"parameter stops is '{self.stops}'; expected JOINT=POSITION, several with commas"
            ) from error


class FakeDriverNode(Node):
    """Topics and action servers of a robot's drivers; everything happens in the thread that spins it.

    Raises ValueError for a robot file that cannot be used, and where a gripper's action has no package installed.
    """

    def __init__(self) -> None:
        super().__init__("fake_driver")
        params = declare_and_read(self, FakeDriverParams)
        robot = self._robot = load_robot(robot_file(params.robot))
        self.driver = FakeDriver(robot, params.lag_s, params.stop_positions, speed_scaling=params.speed_scaling)
        self._sources = [
            (source, self.create_publisher(JointState, source.topic, JOINT_STATES)) for source in robot.joint_sources
        ]
        make_steady_timer(self, 1 / (params.joint_states_rate_hz or robot.control_rate_hz), self._publish_joints)
        for seed, camera in enumerate(robot.cameras):
            kind = CompressedImage if camera.compressed else Image
            publisher = self.create_publisher(kind, camera.topic, CAMERA)
            publish = partial(self._publish_picture, publisher, _messages(camera, seed), count())
            make_steady_timer(self, 1 / (camera.rate_hz or CAMERA_RATE_HZ), publish)
        for output in robot.outputs:
            if output.kind.is_gripper:
                _GripperServer(self, output, self.driver)
            else:
                kind = interface_class(output.kind.msgtype)
                self.create_subscription(kind, output.command_topic, partial(self._on_command, output), COMMAND)

    def _publish_joints(self) -> None:
        self.driver.step(time.monotonic())
        stamp_ns = self.get_clock().now().nanoseconds
        for source, publisher in self._sources:
            publisher.publish(_joint_state(self._robot, source, self.driver, stamp_ns))

    def _publish_picture(self, publisher: Publisher, messages: list[Any], numbers: count[int]) -> None:
        msg = messages[next(numbers) % len(messages)]
        fill_time(msg.header.stamp, self.get_clock().now().nanoseconds)
        publisher.publish(msg)

    def _on_command(self, output: OutputConfig, msg: Any) -> None:
        now_s, now_ns = time.monotonic(), self.get_clock().now().nanoseconds
        # A velocity's message is as one of positions: one number for each joint.
        decode = output.kind.decode or INTERFACES["forward"].decode
        try:
            command = decode(msg, output.message_names, 1.0 / self._robot.control_rate_hz)
            age_s = (now_ns - command.stamp_ns) / NS_PER_S if command.stamp_ns else 0.0
            self.driver.accept(output, command, now_s, age_s)
        except ValueError as error:
            refused = f"{output.command_topic}: command refused: {one_line(error)}"
            self.get_logger().error(refused, throttle_duration_sec=1.0)


class _GripperServer:
    """The action server of one gripper; a goal ends the one before it, as aborted."""

    def __init__(self, node: Node, output: OutputConfig, driver: FakeDriver) -> None:
        self._kind = action_class(output)
        self._output, self._driver = output, driver
        controller = driver.controllers[output.name]
        assert isinstance(controller, Gripper)
        self._gripper = controller
        self._goal: Any = None
        self._ending: Future | None = None
        self._server = ActionServer(
            node,
            self._kind,
            output.command_topic,
            self._execute,
            goal_callback=self._judge,
            handle_accepted_callback=self._start,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        make_steady_timer(node, 1 / GRIPPER_CHECKS_HZ, self._look)

    def _judge(self, goal: Any) -> GoalResponse:
        is_good = len(_target(goal)) == 1 and bool(np.isfinite(_target(goal)).all())
        return GoalResponse.ACCEPT if is_good else GoalResponse.REJECT

    def _start(self, goal: Any) -> None:
        self._end(None)
        self._goal, self._ending = goal, Future()
        target = np.array([_target(goal.request)], np.float64)
        self._driver.accept(self._output, Trajectory(0, np.zeros(1), target, None), time.monotonic())
        goal.execute()

    def _look(self) -> None:
        now_s = time.monotonic()
        self._driver.step(now_s)
        if self._goal is not None and self._goal.is_cancel_requested:
            self._gripper.cancel(now_s)
            return self._end(None)
        outcome = self._gripper.outcome(now_s)
        if outcome is not None:
            self._end(outcome)

    def _end(self, outcome: Outcome | None) -> None:
        if self._ending is not None:
            self._ending.set_result(outcome)
        self._goal = self._ending = None

    async def _execute(self, goal: Any) -> Any:
        ending = self._ending
        outcome = None if ending is None or goal is not self._goal else await ending
        if goal.is_cancel_requested:
            goal.canceled()
        elif outcome is Outcome.REACHED or (outcome is Outcome.STALLED and self._gripper.rules.allow_stalling):
            goal.succeed()
        else:
            goal.abort()
        return self._result(outcome)

    def _result(self, outcome: Outcome | None) -> Any:
        result = self._kind.Result()
        result.reached_goal, result.stalled = outcome is Outcome.REACHED, outcome is Outcome.STALLED
        position = float(self._driver.positions[self._driver.columns[self._output.name]][0])
        if hasattr(result, "state"):
            result.state.name, result.state.position = list(self._output.message_names), [position]
        else:
            result.position = position
        return result


def _target(goal: Any) -> list[float]:
    """The positions that a goal of either action names: one, where it can be followed."""
    position = goal.command.position
    return [position] if isinstance(position, float) else list(position)


def _joint_state(robot: RobotConfig, source: JointStateConfig, driver: FakeDriver, stamp_ns: int) -> JointState:
    """As the source's driver sends it: its own names, in an order of its own."""
    order = np.argsort(source.message_names)
    columns = np.array(robot.columns(source.joints))[order]
    msg, names = JointState(), [source.message_names[i] for i in order]
    fill_joint_state(msg, names, driver.positions[columns], driver.velocities[columns], stamp_ns)
    return msg


def _messages(camera: CameraConfig, seed: int) -> list[Any]:
    """Made beforehand: publishing them should cost no more than a camera driver does."""
    kind, encode = (CompressedImage, encode_compressed_image) if camera.compressed else (Image, encode_image)
    messages = []
    for picture in pictures(camera, seed):
        msg = kind()
        encode(picture, msg, 0, camera.name)
        messages.append(msg)
    return messages


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted; exits 2 with one line where it cannot start."""
    stopping = stop_on_signals()
    try:
        with ros_running(args):
            with spinning(FakeDriverNode()):
                stopping.wait()
    except ValueError as error:
        print(f"fake_driver_node: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
