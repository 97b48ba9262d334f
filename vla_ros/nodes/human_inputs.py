"""What a human says: teleop trajectories, the emergency stop, a takeover button. Callbacks check, hand on and
return."""

from __future__ import annotations

from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import Joy
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.messages.stamps import MAX_START_LEAD_S
from vla_ros.messages.trajectories import parse_teleop
from vla_ros.nodes.control import Control
from vla_ros.robot import RobotConfig
from vla_ros.ros.clock import StampMap, steady_now_ns
from vla_ros.ros.managed import Role
from vla_ros.ros.problems import Problems
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.units import NS_PER_S

NO_BUTTON = -1
SOURCE = "teleop"


class HumanInputs:
    """The human's subscriptions, in a thread of their own, and the emergency stop's in one more: nothing makes a hand
    on the stick wait, and not even that a stop.

    ``control`` gets checked trajectories and what the emergency stop says; the button ``takeover_button`` of ``joy``
    takes over when it goes down.
    """

    def __init__(
        self,
        owner: Node,
        robot: RobotConfig,
        stamps: StampMap,
        problems: Problems,
        control: Control,
        takeover_button: int = NO_BUTTON,
    ) -> None:
        self._robot = robot
        self._problems = problems
        self._control = control
        self._stamps = stamps
        self._was_down = True  # held when the node starts is not pressed
        self._role, self._stop = Role(owner, "human"), Role(owner, "stop")
        self._role.hear(topics.TELEOP.private, self._on_trajectory)
        self._stop.hear(topics.ESTOP.private, lambda msg: control.press_estop(msg.data))
        if takeover_button != NO_BUTTON:
            self._role.subscribe(topics.JOY, partial(self._on_joy, takeover_button))

    def start(self) -> None:
        self._stop.start()
        self._role.start()

    def stop(self) -> None:
        self._role.stop()
        self._stop.stop()

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        try:
            trajectory = parse_teleop(msg, self._robot.joint_names)
            start_ns = steady_now_ns()
            if trajectory.stamp_ns:
                start_ns = self._stamps.to_steady_ns(trajectory.stamp_ns, MAX_START_LEAD_S)
            times_ns = tuple(start_ns + round(t * NS_PER_S) for t in trajectory.times_s)
            refusal = self._control.offer_teleop(TeleopTrajectory(times_ns, trajectory.positions))
        except ValueError as error:
            refusal = str(error)
            self._control.reject_teleop(refusal)
        if refusal:
            self._problems.report(SOURCE, f"'{topics.TELEOP}' refused: {refusal}")

    def _on_joy(self, button: int, msg: Joy) -> None:
        if button >= len(msg.buttons):
            return self._problems.report(
                topics.JOY.name,
                f"'{topics.JOY}' has {len(msg.buttons)} buttons; expected more than takeover_button {button}",
            )
        is_down = bool(msg.buttons[button])
        refusal = self._control.takeover() if is_down and not self._was_down else ""
        if refusal:
            self._problems.report(topics.JOY.name, f"takeover by '{topics.JOY}' refused: {refusal}")
        self._was_down = is_down
