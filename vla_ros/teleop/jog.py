"""Jogging a robot's joints: who drives and which target is sent, and what each key of a keyboard does. No ROS, no
clock."""

from __future__ import annotations

import re
from enum import Enum

import numpy as np

from vla_ros import topics
from vla_ros.robot import RobotConfig
from vla_ros.types import Mode

DEFAULT_SPEED, MIN_SPEED, MAX_SPEED = 0.25, 0.05, 1.0
SPEED_FACTOR = 1.25
# A key moves a joint as far as it goes in this time: repeated by the keyboard, 10 keys per second make a smooth motion.
STEP_S = 0.1
# How far the goal may lead, so that the joint stops soon after the key is let go.
MAX_LEAD_S = 0.25
# For the policy node to say TELEOP after the first message.
TAKEOVER_PATIENCE_S = 1.5


class Action(Enum):
    """What a key asks for."""

    UP = "jog up"
    DOWN = "jog down"
    NEXT = "next joint"
    PREVIOUS = "previous joint"
    FASTER = "faster"
    SLOWER = "slower"
    ENGAGE = "engage"
    HOLD = "hold"
    ESTOP = "estop"
    RESET = "reset"
    START = "start"
    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    HELP = "help"
    QUIT = "quit"


KEYS = {
    **{key: Action.UP for key in ("\x1b[A", "\x1bOA", "+", "=")},
    **{key: Action.DOWN for key in ("\x1b[B", "\x1bOB", "-", "_")},
    **{key: Action.NEXT for key in ("\x1b[C", "\x1bOC", "\t")},
    **{key: Action.PREVIOUS for key in ("\x1b[D", "\x1bOD", "\x1b[Z")},
    "]": Action.FASTER,
    "[": Action.SLOWER,
    "e": Action.ENGAGE,
    "h": Action.HOLD,
    "x": Action.ESTOP,
    " ": Action.ESTOP,
    "r": Action.RESET,
    "s": Action.START,
    "y": Action.SUCCESS,
    "n": Action.FAILURE,
    "d": Action.DISCARD,
    "?": Action.HELP,
    "q": Action.QUIT,
    "\x04": Action.QUIT,
}
KEY = re.compile(r"\x1bO.|\x1b\[[^@-~]*[@-~]|\x1b(?=[^O\[])|[^\x1b]", re.DOTALL)
"""A whole key; of an escape sequence whose end is missing, none."""
HELP = """\
  up, down  or  + -          jog the joint in brackets; the first one takes over
  left, right  or  1 ... 9   another joint
  [ ]                        slower, faster
  e  the policy drives    h  hold    x or space  emergency stop    r  reset it    ?  keys    q  quit
  s  an episode starts    and was a  y  success   n  failure   d  discard: nothing is learned of it"""
MARKS = (Action.START, Action.SUCCESS, Action.FAILURE, Action.DISCARD)
"""What a recording knows as the markers of episodes."""


def split_keys(text: str) -> tuple[list[str], str]:
    """What a terminal sent, key by key (an arrow is one), and the beginning of an escape sequence whose end is still to
    come."""
    keys, at = [], 0
    while key := KEY.match(text, at):
        keys.append(key[0])
        at = key.end()
    return keys, text[at:]


class Jog:
    """A goal that keys move and a target that follows it, within a robot's limits and a share of its velocities."""

    def __init__(self, robot: RobotConfig, period_s: float, speed: float = DEFAULT_SPEED) -> None:
        self.speed = speed
        self._period_s = period_s
        self._lower, self._upper = robot.joint_values("lower"), robot.joint_values("upper")
        self._max_velocity = robot.joint_values("max_velocity")
        self._goal = self._target = np.zeros(robot.num_joints)

    @property
    def target(self) -> np.ndarray:
        """The newest target ``[num_joints]``."""
        return self._target

    def start(self, positions: np.ndarray) -> None:
        """From ``positions`` ``[num_joints]``, at rest."""
        self._goal = np.clip(positions, self._lower, self._upper)
        self._target = self._goal.copy()

    def move(self, joint: int, direction: int) -> None:
        """Move the goal of a joint one step."""
        velocity = self.speed * self._max_velocity[joint]
        lead = velocity * MAX_LEAD_S
        goal = self._goal[joint] + direction * velocity * STEP_S
        goal = np.clip(goal, self._target[joint] - lead, self._target[joint] + lead)
        self._goal[joint] = np.clip(goal, self._lower[joint], self._upper[joint])

    def push(self, shares: np.ndarray) -> None:
        """Move each joint at a share, -1 to 1, of its present speed for one period; ``[num_joints]``."""
        step = shares * self.speed * self._max_velocity * self._period_s
        self.lead(self._target + step)

    def lead(self, positions: np.ndarray) -> None:
        """Make ``positions`` ``[num_joints]`` the goal, as far as it can be reached in one period, joints together."""
        way = positions - self._target
        reach = self.speed * self._max_velocity * self._period_s
        goal = self._target + way / max(1.0, float((np.abs(way) / reach).max()))
        self._goal = np.clip(goal, self._lower, self._upper)

    def advance(self) -> np.ndarray:
        """The target ``[num_joints]`` one period later."""
        step = self.speed * self._max_velocity * self._period_s
        self._target = self._target + np.clip(self._goal - self._target, -step, step)
        return self._target.copy()


class Drive:
    """Who drives: a human from the takeover until the policy is engaged, held, stopped, or another mode shows.

    ``lines`` collects what the human should read; ``requests`` what the node should ask for: ``takeover``, ``engage``,
    ``hold``, ``reset_estop``, ``press_estop``, ``release_estop``. Both are emptied by the reader.
    """

    def __init__(self, robot: RobotConfig, period_s: float, speed: float = DEFAULT_SPEED) -> None:
        self.jog = Jog(robot, period_s, speed)
        self.is_driving = False
        self.lines: list[str] = []
        self.requests: list[str] = []
        self._started_s = 0.0
        self._is_teleop = False

    def tick(self, mode: str, now_s: float) -> np.ndarray | None:
        """The target ``[num_joints]`` to send now; None while somebody else drives."""
        if not self.is_driving:
            return None
        if mode == Mode.TELEOP:
            self._is_teleop = True
        elif self._is_teleop:
            self._stop(f"{mode}: you no longer drive; jog to take over again")
        elif now_s - self._started_s > TAKEOVER_PATIENCE_S:
            self._stop(f"no takeover: the mode is {mode}" if mode else f"no takeover: nobody publishes {topics.MODE}")
        return self.jog.advance() if self.is_driving else None

    def answer(self, service: str, success: bool, message: str) -> None:
        """What a service said; a refused takeover ends driving."""
        line = message or ("done" if success else "refused without a reason")
        self.lines.append(f"{service}: {line}" if success else f"{service} refused: {line}")
        if service == "takeover" and not success:
            self.is_driving = False

    def take_over(self, mode: str, positions: np.ndarray | None, now_s: float) -> bool:
        """Drive from ``positions``, the newest measured ones, None where they are missing or old; whether that goes."""
        if mode == Mode.ESTOP:
            self.lines.append(f"no takeover in ESTOP; '{topics.RESET_ESTOP}' comes first (r on the keyboard)")
        elif positions is None:
            self.lines.append("no takeover without fresh joint states")
        else:
            self.jog.start(positions)
            self.is_driving, self._is_teleop, self._started_s = True, False, now_s
            self.requests.append("takeover")
        return self.is_driving

    def release(self, *requests: str) -> None:
        """Drive no more, and ask for ``requests``."""
        self.is_driving = False
        self.requests += requests

    def _stop(self, line: str) -> None:
        self.is_driving = False
        self.lines.append(line)


class JogSession(Drive):
    """What keys do. ``marks`` collects the markers of episodes to publish, emptied by the reader."""

    def __init__(self, robot: RobotConfig, period_s: float, speed: float = DEFAULT_SPEED) -> None:
        super().__init__(robot, period_s, speed)
        self._driven = robot.columns(robot.driven_names)
        self.joint = self._driven[0]
        self.marks: list[str] = []
        self.is_recorded = False
        self._has_pressed = False

    def press(self, key: str, mode: str, positions: np.ndarray | None, now_s: float) -> bool:
        """One key; ``positions`` are the newest measured ones, None where they are missing or old. False for quit."""
        action = KEYS.get(key.lower() if len(key) == 1 else key)
        if key.isdecimal() and 1 <= int(key) <= len(self._driven):
            self.joint = self._driven[int(key) - 1]
        elif action in (Action.NEXT, Action.PREVIOUS):
            step = 1 if action is Action.NEXT else -1
            self.joint = self._driven[(self._driven.index(self.joint) + step) % len(self._driven)]
        elif action in (Action.FASTER, Action.SLOWER):
            factor = SPEED_FACTOR if action is Action.FASTER else 1 / SPEED_FACTOR
            self.jog.speed = float(np.clip(self.jog.speed * factor, MIN_SPEED, MAX_SPEED))
        elif action in (Action.UP, Action.DOWN):
            if self.is_driving or self.take_over(mode, positions, now_s):
                self.jog.move(self.joint, 1 if action is Action.UP else -1)
        elif action in (Action.ENGAGE, Action.HOLD):
            self.release(action.value)
        elif action is Action.ESTOP:
            self.release("press_estop")
            self._has_pressed = True
            self.lines.append("emergency stop; r resets it")
        elif action is Action.RESET:
            # Another's emergency stop is not ours to let go.
            self.release(*(["release_estop"] if self._has_pressed else []), "reset_estop")
            self._has_pressed = False
        elif action in MARKS:
            self._mark(action)
        elif action is Action.HELP:
            self.lines.append(HELP)
        return action is not Action.QUIT

    def _mark(self, action: Action) -> None:
        if self.is_recorded == (action is Action.START):
            at_fault = "an episode is under way; y, n or d ends it" if self.is_recorded else "no episode; s starts one"
            self.lines.append(at_fault)
            return
        self.is_recorded = action is Action.START
        self.marks.append(action.value)
        self.lines.append(f"episode: {action.value}")


def status_line(robot: RobotConfig, session: JogSession, mode: str, positions: np.ndarray | None, width: int) -> str:
    """Mode, joints and speed in at most ``width`` characters; names of all joints where there is room."""
    head = f"{mode or f'no {topics.POLICY_NODE}'}{' (you)' if session.is_driving else ''}"
    head += "  * episode" if session.is_recorded else ""
    tail = f"{session.jog.speed:.0%}"
    if positions is None:
        return f"{head}  no joint states  {tail}"[:width]
    for with_names in (True, False):
        joints = []
        for number, name in enumerate(robot.driven_names, start=1):
            joint = robot.joint_names.index(name)
            if joint == session.joint:
                joints.append(f"[{number} {name} {positions[joint]:+.3f}]")
            else:
                joints.append(f"{number} {f'{name} ' if with_names else ''}{positions[joint]:+.2f}")
        line = "  ".join([head, *joints, tail])
        if len(line) <= width:
            break
    return line[:width]
