"""``teleop_joystick``: jogs a robot's joints, or its tip, by a gamepad, while a dead-man button is held."""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import dataclass

from sensor_msgs.msg import Joy

from vla_ros import topics
from vla_ros.robot import RobotConfig
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.strict import explained, one_line
from vla_ros.teleop.jog import DEFAULT_SPEED, MAX_SPEED, MIN_SPEED
from vla_ros.teleop.joy import NO_BUTTON, NO_KINEMATICS, Axis, JoyLayout, JoySession, Step, TipSteps
from vla_ros.teleop.node import PERIOD_S, TeleopNode


@dataclass(frozen=True)
class JoystickParams(NodeParameters):
    """Of ``teleop_joystick``; the defaults are a gamepad's of the Xbox kind, as joy_node numbers it."""

    robot: str = robot_parameter()
    speed: float = parameter(
        DEFAULT_SPEED, "Share of the joints' max_velocity at full stick.", low=MIN_SPEED, high=MAX_SPEED
    )
    axes: tuple[str, ...] = parameter(
        ("0", "1", "3", "4", "6", "7"), "Axes that move the joints, in their order; -4 turns axis 4 round."
    )
    tip_axes: tuple[str, ...] = parameter(
        ("1", "0", "4", "6", "7", "3"), "Axes that move the tip along x, y, z and about x, y, z of the base."
    )
    tip_speed_m_s: float = parameter(
        0.4, "Speed of the tip at full stick and full share.", unit="m/s", low=0.0, high=2.0, is_open=True
    )
    tip_speed_rad_s: float = parameter(2.0, "The same about an axis.", unit="rad/s", low=0.0, high=6.0, is_open=True)
    deadman_button: int = parameter(4, "Only while it is held anything moves.", low=0, high=99)
    next_button: int = parameter(5, "Goes on to further joints; -1: none.", low=NO_BUTTON, high=99)
    tip_button: int = parameter(3, "From joints to the tip and back; -1: none.", low=NO_BUTTON, high=99)
    deadzone: float = parameter(0.1, "Less of an axis is none.", low=0.0, high=0.9)

    @property
    def layout(self) -> JoyLayout:
        """Raises ValueError, naming the parameter, for axes that are none."""
        parsed = {}
        for name in ("axes", "tip_axes"):
            with explained(f"parameter {name} has "):
                parsed[name] = tuple(map(Axis.parse, getattr(self, name)))
        with explained("parameter "):
            buttons = (self.deadman_button, self.next_button, self.tip_button)
            return JoyLayout(parsed["axes"], parsed["tip_axes"], *buttons, self.deadzone)


class TeleopJoystick(TeleopNode):
    """``run`` is the loop that sends targets."""

    def __init__(self) -> None:
        super().__init__("teleop_joystick")
        params = declare_and_read(self, JoystickParams)
        layout = params.layout
        robot = self.listen(params.robot)
        self._lock = threading.Lock()
        try:
            step_tip, no_tip = _tip_steps(robot, params), NO_KINEMATICS
        except ValueError as error:  # joints can be jogged all the same
            step_tip, no_tip = None, one_line(error)
        self._session = JoySession(robot, layout, PERIOD_S, params.speed, step_tip, no_tip)
        self._problem = ""
        subscribe(self, topics.JOY, self._on_joy)

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        self.get_logger().info(f"{self.robot.name}: hold the dead-man button; the axes move {self._session.moved}")
        said: tuple[str, ...] = ()
        deadline_s = time.monotonic()
        while not stop.wait(max(0.0, deadline_s - time.monotonic())):
            now_s = time.monotonic()
            deadline_s = max(deadline_s + PERIOD_S, now_s)
            with self._lock:
                target = self._session.drive(self.mode, self.fresh_positions(), now_s)
                self.ask(self._session, now_s)
                self.hear(self._session, now_s)
                lines, self._session.lines[:] = tuple(self._session.lines), []
            if target is not None:
                self.publish(target)
            problems = tuple(filter(None, (self._problem, self.problem)))
            for line in (*lines, *(problem for problem in problems if problem not in said)):
                self.get_logger().info(line)
            said = problems

    def _on_joy(self, msg: Joy) -> None:
        with self._lock:
            problem = self._session.hear(msg.axes, msg.buttons, time.monotonic())
        self._problem = f"'{topics.JOY}': {problem}" if problem else ""


def _tip_steps(robot: RobotConfig, params: JoystickParams) -> Step | None:
    """None for a robot whose file has no kinematics. Raises ValueError where its chain cannot be used."""
    if robot.kinematics is None:
        return None
    from vla_ros.spaces.kinematics import Chain, kinematics_of

    chain = Chain(
        kinematics_of(robot), robot.kinematics.base, robot.kinematics.tip, robot.joint_names, robot.joint_limits
    )
    return TipSteps(chain, PERIOD_S, params.tip_speed_m_s, params.tip_speed_rad_s)


def main(args: list[str] | None = None) -> int:
    """Run until a signal; exits 2 with one line where it cannot start."""
    stop = stop_on_signals(signal.SIGHUP)
    try:
        with ros_running(args):
            node = TeleopJoystick()
            with spinning(node):
                node.run(stop)
            node.destroy_node()
    except ValueError as error:
        print(f"teleop_joystick: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
