"""Commands to and from the controllers of a robot, whatever each one's interface is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from vla_ros.messages.trajectories import Trajectory, join_trajectories
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros import qos
from vla_ros.ros.endpoints import interface_class, new_message
from vla_ros.ros.grippers import Gripper, action_class
from vla_ros.ros.managed import Role
from vla_ros.runtime.limits import BrakingRamp
from vla_ros.units import NS_PER_S

MAX_TICKS = 100
"""How many ticks' parts are kept, at most, while others of the same tick are still on their way."""


class CommandOutputs:
    """Publishers for each output of the robot file, and a client for each gripper that is an action server, of which
    ``report`` gets what is wrong."""

    def __init__(
        self,
        node: Node,
        robot: RobotConfig,
        period_s: float,
        report: Callable[[str, str], None] = lambda source, line: None,
    ) -> None:
        """Raises ValueError where the package of a gripper's action is not installed."""
        self._node = node
        self._period_s = period_s
        grippers = [output for output in robot.outputs if output.kind.is_gripper]
        for output in grippers:
            action_class(output)
        self._outputs = [_Output(node, robot, output, period_s) for output in robot.outputs]
        self._role = Role(node, "grippers") if grippers else None
        self._grippers = [] if self._role is None else [Gripper(self._role, robot, out, report) for out in grippers]

    def start(self) -> None:
        """Let the grippers follow."""
        if self._role is not None:
            self._role.start()

    def publish(self, ramp: BrakingRamp, tick_ns: int) -> None:
        """The command of the tick at ``tick_ns``, ROS time, due one control period after it, and the braking ramp
        behind it."""
        # Before simulated time has begun there may be no such stamp; 0 is "from now on".
        self.send(Trajectory(max(tick_ns, 0), self._period_s + ramp.times_s, ramp.positions, ramp.velocities))

    def send(self, trajectory: Trajectory) -> None:
        """A trajectory of all joints, to each controller those that it has."""
        for output in self._outputs:
            output.publish(trajectory)
        for gripper in self._grippers:
            gripper.move(trajectory)

    def halt(self) -> None:
        """No command comes any more: what no braking ramp ends, a velocity, ends now."""
        for output in self._outputs:
            output.halt()

    def refusal(self) -> str:
        """Why not every output can be driven, in one line; empty where it can."""
        return next((gripper.refusal for gripper in self._grippers if gripper.refusal), "")

    @property
    def topics(self) -> tuple[str, ...]:
        """The full names of what is published."""
        return tuple(publisher.topic_name for output in self._outputs for publisher in output.publishers)

    def destroy(self) -> None:
        if self._role is not None:
            self._role.stop()
        for output in self._outputs:
            for publisher in output.publishers:
                self._node.destroy_publisher(publisher)


class _Output:
    def __init__(self, node: Node, robot: RobotConfig, config: OutputConfig, period_s: float) -> None:
        self._joints = config.message_names
        self._is_stamped = config.stamp == "tick"
        self._delay_s = (config.lead_periods - 1) * period_s
        self._before: Trajectory | None = None
        self._last: Trajectory | None = None
        self._columns = robot.columns(config.joints)
        ends = {config.set_point_topic: config.set_points}
        if not config.kind.is_gripper:
            ends[config.command_topic] = config.kind
        self._encoders = [kind.encode for kind in ends.values()]
        self.publishers: list[Publisher] = [
            node.create_publisher(interface_class(kind.msgtype), topic, qos.COMMAND) for topic, kind in ends.items()
        ]
        self._is_velocity = config.interface == "velocity"

    def publish(self, whole: Trajectory) -> None:
        velocities = None if whole.velocities is None else whole.velocities[:, self._columns]
        trajectory = Trajectory(whole.stamp_ns, whole.times_s, whole.positions[:, self._columns], velocities)
        if self._delay_s:
            self._before, trajectory = trajectory, _delayed(trajectory, self._delay_s, self._before)
        stamp_ns = trajectory.stamp_ns if self._is_stamped else 0
        self._send(replace(trajectory, stamp_ns=stamp_ns))

    def halt(self) -> None:
        """End a velocity."""
        if self._is_velocity and self._last is not None:
            self._send(replace(self._last, velocities=np.zeros_like(self._last.positions)))

    def _send(self, trajectory: Trajectory) -> None:
        self._last = trajectory
        for encode, publisher in zip(self._encoders, self.publishers, strict=True):
            publisher.publish(encode(new_message, trajectory, self._joints))


def _delayed(trajectory: Trajectory, delay_s: float, before: Trajectory | None) -> Trajectory:
    """``trajectory`` so much later, through the first point of the one ``before``, delayed alike, where that was of the
    tick before: a command that is late then changes nothing of the motion under way."""
    times_s = trajectory.times_s + delay_s
    age_s = np.inf if before is None else (trajectory.stamp_ns - before.stamp_ns) / NS_PER_S
    if before is None or before.velocities is None or trajectory.velocities is None or abs(age_s / delay_s - 1) > 0.1:
        return replace(trajectory, times_s=times_s)
    return Trajectory(
        trajectory.stamp_ns,
        np.concatenate([trajectory.times_s[:1], times_s]),
        np.concatenate([before.positions[:1], trajectory.positions]),
        np.concatenate([before.velocities[:1], trajectory.velocities]),
    )


class CommandInputs:
    """Hears what is published for all outputs of a robot; ``on_command`` gets it as one trajectory of all joints, and
    what the middleware says of the message that completed it. Where all are stamped with their ticks, only parts of one
    tick become one command, in whatever order they come.

    ``on_refused`` gets in one line what no controller could follow; without, it is raised.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotConfig,
        on_command: Callable[[Trajectory, dict[str, Any]], None],
        profile: QoSProfile = qos.COMMAND,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        self._robot = robot
        self._on_command, self._on_refused = on_command, on_refused
        self._are_stamped = all(one.stamp == "tick" and one.set_points.names_joints for one in robot.outputs)
        self._parts: dict[int, dict[str, tuple[Sequence[int], Trajectory]]] = {}
        for output in robot.outputs:
            kind, topic = interface_class(output.set_points.msgtype), output.set_point_topic
            node.create_subscription(kind, topic, partial(self._take, output), profile)

    def _take(self, output: OutputConfig, msg: Any, info: dict[str, Any]) -> None:
        try:
            trajectory = output.decode(msg, 1.0 / self._robot.control_rate_hz)
        except ValueError as error:
            if self._on_refused is None:
                raise
            return self._on_refused(str(error))
        stamp_ns = trajectory.stamp_ns if self._are_stamped else 0
        parts = self._parts.setdefault(stamp_ns, {})
        parts[output.name] = self._robot.columns(output.joints), trajectory
        if len(parts) == len(self._robot.outputs):  # what is older has lost a part
            self._parts = {other_ns: others for other_ns, others in self._parts.items() if other_ns > stamp_ns}
            self._on_command(join_trajectories([*parts.values()], self._robot.num_joints), info)
        elif len(self._parts) > MAX_TICKS:
            del self._parts[min(self._parts)]
