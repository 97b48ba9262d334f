"""``teleop_keyboard``: jogs a robot's joints from a terminal, takes over from the policy and gives back."""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import dataclass

from std_msgs.msg import String

from vla_ros import topics
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import make_publisher
from vla_ros.ros.managed import spinning
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.strict import one_line
from vla_ros.teleop.jog import DEFAULT_SPEED, HELP, MAX_SPEED, MIN_SPEED, JogSession, status_line
from vla_ros.teleop.node import PERIOD_S, TeleopNode
from vla_ros.teleop.terminal import Terminal
from vla_ros.types import Mode

MODE_COLOURS = {Mode.TELEOP: "32;1", Mode.POLICY: "36;1", Mode.HOLD: "33;1", Mode.ESTOP: "41;97;1"}


@dataclass(frozen=True)
class KeyboardParams(NodeParameters):
    """Of ``teleop_keyboard``."""

    robot: str = robot_parameter()
    speed: float = parameter(
        DEFAULT_SPEED, "Share of the joints' max_velocity to start with.", low=MIN_SPEED, high=MAX_SPEED
    )


class TeleopKeyboard(TeleopNode):
    """``run`` is the key loop."""

    def __init__(self) -> None:
        super().__init__("teleop_keyboard")
        params = declare_and_read(self, KeyboardParams)
        self._session = JogSession(self.listen(params.robot), PERIOD_S, params.speed)
        self._marks = make_publisher(self, topics.EPISODE_MARKER)

    def run(self, terminal: Terminal, stop: threading.Event) -> None:
        """Read keys and send targets until a key, ``stop`` or the end of the terminal says to quit."""
        terminal.say(f"{self.robot.name}: {len(self.robot.driven_names)} joints\n{HELP}")
        deadline_s = time.monotonic()
        said = ""
        while not stop.is_set():
            try:
                keys = terminal.keys(deadline_s - time.monotonic())
            except EOFError:
                return
            for key in keys:
                if not self._session.press(key, self.mode, self.fresh_positions(), time.monotonic()):
                    return
            now_s = time.monotonic()
            self._mark()
            self.ask(self._session, now_s)
            if now_s >= deadline_s:
                deadline_s = max(deadline_s + PERIOD_S, now_s)
                target = self._session.tick(self.mode, now_s)
                if target is not None:
                    self.publish(target)
            self.hear(self._session, now_s)
            problem = self.problem
            if problem not in ("", said):
                self._session.lines.append(problem)
            said = problem
            self._show(terminal)

    def _mark(self) -> None:
        for mark in self._session.marks:
            self._marks.publish(String(data=mark))
            if not self._marks.get_subscription_count():
                self._session.lines.append(f"nobody records '{topics.EPISODE_MARKER}': vla_ros record does")
        self._session.marks.clear()

    def _show(self, terminal: Terminal) -> None:
        for line in self._session.lines:
            terminal.say(line)
        self._session.lines.clear()
        mode = self.mode
        line = status_line(self.robot, self._session, mode, self.fresh_positions(), terminal.width)
        colour = MODE_COLOURS.get(mode)
        terminal.show(line if colour is None else f"\x1b[{colour}m{mode}\x1b[0m{line[len(mode) :]}")


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
    except ValueError as error:
        return _refuse(one_line(error))
    return 0


def _refuse(line: str) -> int:
    print(f"teleop_keyboard: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
