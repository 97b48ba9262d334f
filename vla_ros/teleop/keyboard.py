"""``teleop_keyboard``: jogs a robot's joints from a terminal, takes over from the policy and gives back."""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.messages.joints import names_any, positions_by_name
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.ros import qos
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import make_client, make_publisher, subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.strict import one_line, quoted
from vla_ros.teleop.jog import DEFAULT_SPEED, HELP, MAX_SPEED, MIN_SPEED, JogSession, status_line
from vla_ros.teleop.terminal import Terminal
from vla_ros.types import Mode

PERIOD_S = 0.05
POINT_AHEAD_S = 0.1
SERVICES = {
    service.name.rpartition("/")[2]: service
    for service in (topics.TAKEOVER, topics.ENGAGE, topics.HOLD, topics.RESET_ESTOP)
}
# What must come after the last teleop message, which takes over, and after a stop button let go.
SETTLE_S = {"engage": 0.1, "hold": 0.1, "reset_estop": 0.1}
ANSWER_PATIENCE_S = 2.0
MODE_COLOURS = {Mode.TELEOP: "32;1", Mode.POLICY: "36;1", Mode.HOLD: "33;1", Mode.ESTOP: "41;97;1"}


@dataclass(frozen=True)
class _Measured:
    """The newest joint positions ``[num_joints]``, when they came, and what was wrong with them if they are None."""

    positions: np.ndarray | None
    received_s: float
    problem: str = ""


@dataclass(frozen=True)
class KeyboardParams(NodeParameters):
    """Of ``teleop_keyboard``."""

    robot: str = robot_parameter()
    speed: float = parameter(
        DEFAULT_SPEED, "Share of the joints' max_velocity to start with.", low=MIN_SPEED, high=MAX_SPEED
    )


class TeleopKeyboard(Node):
    """Its callbacks, in the thread that spins it, only keep the newest; ``run`` is the key loop."""

    def __init__(self) -> None:
        super().__init__("teleop_keyboard")
        params = declare_and_read(self, KeyboardParams)
        self._robot = load_robot_in_graph(self, robot_file(params.robot))
        self._session = JogSession(self._robot, PERIOD_S, params.speed)
        self._mode = ""
        self._measured = _Measured(None, 0.0)
        self._due_s: dict[str, float] = {}
        self._asked: dict[str, tuple[float, Future]] = {}
        self._teleop = make_publisher(self, topics.TELEOP)
        self._estop = make_publisher(self, topics.ESTOP)
        self._triggers = {name: make_client(self, service) for name, service in SERVICES.items()}
        subscribe(self, topics.MODE, self._on_mode)
        topic = self._robot.joint_sources[0].topic
        self.create_subscription(JointState, topic, self._on_joint_state, qos.JOINT_STATES)

    def run(self, terminal: Terminal, stop: threading.Event) -> None:
        """Read keys and send targets until a key, ``stop`` or the end of the terminal says to quit."""
        terminal.say(f"{self._robot.name}: {self._robot.num_joints} joints\n{HELP}")
        deadline_s = time.monotonic()
        said = ""
        while not stop.is_set():
            try:
                keys = terminal.keys(deadline_s - time.monotonic())
            except EOFError:
                return
            for key in keys:
                if not self._session.press(key, self._mode, self._fresh_positions(), time.monotonic()):
                    return
            now_s = time.monotonic()
            self._ask(now_s)
            if now_s >= deadline_s:
                deadline_s = max(deadline_s + PERIOD_S, now_s)
                target = self._session.tick(self._mode, now_s)
                if target is not None:
                    self._publish(target)
            self._hear(now_s)
            problem = self._measured.problem
            if problem not in ("", said):
                self._session.lines.append(problem)
            said = problem
            self._show(terminal)

    def _fresh_positions(self) -> np.ndarray | None:
        measured = self._measured
        is_fresh = time.monotonic() - measured.received_s <= self._robot.joint_sources[0].max_age_s
        return measured.positions if is_fresh else None

    def _publish(self, target: np.ndarray) -> None:
        msg = JointTrajectory()
        point = Trajectory(0, np.array([POINT_AHEAD_S]), target[None], None)
        fill_trajectory(msg, point, self._robot.joint_names, JointTrajectoryPoint)
        self._teleop.publish(msg)

    def _ask(self, now_s: float) -> None:
        """Publish and call what the session asks for, each when its time has come."""
        for request in self._session.requests:
            # The newest key counts: an engage still to come must not undo it.
            self._due_s.pop("engage", None)
            if request in ("press_estop", "release_estop"):
                self._estop.publish(Bool(data=request == "press_estop"))
            else:
                self._due_s[request] = now_s + SETTLE_S.get(request, 0.0)
        self._session.requests.clear()
        for service in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[service]
            if not self._triggers[service].service_is_ready():
                self._session.answer(service, False, f"nobody offers {SERVICES[service]}; does policy_node run?")
                continue
            self._asked[service] = now_s, self._triggers[service].call_async(Trigger.Request())

    def _hear(self, now_s: float) -> None:
        for service, (asked_s, answer) in list(self._asked.items()):
            if answer.done():
                self._session.answer(service, answer.result().success, one_line(answer.result().message))
            elif now_s - asked_s > ANSWER_PATIENCE_S:
                self._session.lines.append(f"{service}: no answer in {ANSWER_PATIENCE_S:g} s")
            else:
                continue
            del self._asked[service]

    def _show(self, terminal: Terminal) -> None:
        for line in self._session.lines:
            terminal.say(line)
        self._session.lines.clear()
        mode = self._mode
        line = status_line(self._robot, self._session, mode, self._fresh_positions(), terminal.width)
        colour = MODE_COLOURS.get(mode)
        terminal.show(line if colour is None else f"\x1b[{colour}m{mode}\x1b[0m{line[len(mode) :]}")

    def _on_mode(self, msg: String) -> None:
        self._mode = quoted(msg.data)

    def _on_joint_state(self, msg: JointState) -> None:
        if self._measured.positions is not None and not names_any(msg, self._robot.joint_names):
            return  # wheels, or another arm
        now_s = time.monotonic()
        try:
            self._measured = _Measured(positions_by_name(msg, self._robot.joint_names)[0], now_s)
        except ValueError as error:
            self._measured = _Measured(None, now_s, str(error))


def main(args: list[str] | None = None) -> int:
    """Run until q or a signal; exits 2 with one line where it cannot start."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _refuse("standard input and output are not a terminal; run it in one: ros2 run vla_ros teleop_keyboard")
    stop = stop_on_signals(signal.SIGHUP, signal.SIGQUIT)
    try:
        with ros_running(args):
            node = TeleopKeyboard()
            with spinning(node), Terminal(sys.stdin, sys.stdout) as terminal:
                node.run(terminal, stop)
            node.destroy_node()
    except (ValueError, InvalidParameterTypeException) as error:
        return _refuse(" ".join(str(error).split()))
    return 0


def _refuse(line: str) -> int:
    print(f"teleop_keyboard: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
