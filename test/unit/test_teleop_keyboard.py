"""The keyboard's part without ROS: keys, who drives, which targets go out, and the terminal left as it was."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import pytest
from runtime_helpers import ROBOT

from vla_ros.recordings.events import MARKERS
from vla_ros.teleop.jog import (
    KEYS,
    MAX_LEAD_S,
    STEP_S,
    TAKEOVER_PATIENCE_S,
    Action,
    Jog,
    JogSession,
    split_keys,
    status_line,
)
from vla_ros.teleop.terminal import Terminal

PERIOD_S = 0.05
UP, DOWN, RIGHT = "\x1b[A", "\x1b[B", "\x1b[C"
HERE = np.array([0.2, -0.5])


def session() -> JogSession:
    return JogSession(ROBOT, PERIOD_S)


def press(session: JogSession, *keys: str, mode: str = "HOLD", positions: np.ndarray | None = HERE) -> bool:
    return all([session.press(key, mode, positions, now_s=0.0) for key in keys])


def driving() -> JogSession:
    """A human drives, and the policy node has said so."""
    new = session()
    press(new, UP)
    assert new.tick("TELEOP", 0.1) is not None
    new.requests.clear()
    return new


@pytest.mark.parametrize(
    "text, keys, rest",
    [
        ("ex", ("e", "x"), ""),
        ("\x1b[A\x1bOBq", ("\x1b[A", "\x1bOB", "q"), ""),
        ("h\x1b[", ("h",), "\x1b["),
        ("\x1b", (), "\x1b"),
        ("\x1bO", (), "\x1bO"),
        ("\x1b[1;5Ax", ("\x1b[1;5A", "x"), ""),
        ("\x1bx", ("\x1b", "x"), ""),
        ("", (), ""),
    ],
)
def test_what_a_terminal_sends_is_split_into_keys(text, keys, rest):
    assert split_keys(text) == (list(keys), rest)


def test_every_action_has_a_key():
    assert set(KEYS.values()) == set(Action)


def test_the_first_jog_key_takes_over_and_starts_from_where_the_robot_is():
    new = session()
    assert new.tick("POLICY", 0.0) is None
    press(new, UP, mode="POLICY")
    assert new.is_driving and new.requests == ["takeover"]
    target = new.tick("POLICY", 0.0)
    step = new.jog.speed * ROBOT.joints[0].max_velocity * PERIOD_S
    np.testing.assert_allclose(target, HERE + [step, 0.0])
    press(new, UP, mode="TELEOP", positions=np.array([9.0, 9.0]))
    assert new.requests == ["takeover"]
    assert new.tick("TELEOP", 0.1)[0] > target[0]


@pytest.mark.parametrize("key", ["2", "e", "]", "?", "\x1b", "z", "h", " "])
def test_no_other_key_takes_over(key):
    new = session()
    assert press(new, key) and not new.is_driving
    assert "takeover" not in new.requests and new.tick("POLICY", 0.0) is None


def test_a_step_ends_where_it_should_and_the_target_is_sent_on():
    new = driving()
    targets = [new.tick("TELEOP", 0.2) for _ in range(20)]
    step = new.jog.speed * ROBOT.joints[0].max_velocity * STEP_S
    np.testing.assert_allclose(targets[-1], HERE + [step, 0.0])


def test_keys_and_arrows_choose_the_joint_round_and_round():
    new = session()
    press(new, "2")
    assert new.joint == 1
    press(new, RIGHT)
    assert new.joint == 0
    press(new, "7", "0")
    assert new.joint == 0
    press(new, "2", DOWN)
    assert new.tick("HOLD", 0.0)[1] < HERE[1]


def test_however_fast_keys_come_no_joint_is_faster_than_its_share_or_leaves_its_limits():
    jog = Jog(ROBOT, PERIOD_S, speed=0.5)
    jog.start(HERE)
    targets = [HERE]
    for _ in range(200):
        for _ in range(5):
            jog.move(0, 1)
            jog.move(1, -1)
        targets.append(jog.advance())
    speeds = np.abs(np.diff(targets, axis=0)) / PERIOD_S
    assert (speeds <= 0.5 * ROBOT.joint_values("max_velocity") + 1e-9).all()
    np.testing.assert_allclose(targets[-1], [1.0, -2.0])


def test_a_joint_stops_soon_after_the_key_is_let_go():
    jog = Jog(ROBOT, PERIOD_S)
    jog.start(HERE)
    for _ in range(100):
        jog.move(0, 1)
    targets = [jog.advance() for _ in range(round(MAX_LEAD_S / PERIOD_S) + 2)]
    np.testing.assert_array_equal(targets[-1], targets[-2])


def test_a_robot_measured_outside_its_limits_is_sent_targets_inside():
    new = session()
    press(new, UP, positions=np.array([-1.01, 0.6]))
    target = new.tick("HOLD", 0.0)
    assert (target >= ROBOT.joint_values("lower")).all() and (target <= ROBOT.joint_values("upper")).all()


@pytest.mark.parametrize(
    "key, requests",
    [
        ("e", ["engage"]),
        ("H", ["hold"]),
        ("x", ["press_estop"]),
        (" ", ["press_estop"]),
        ("r", ["reset_estop"]),
    ],
)
def test_engage_hold_and_stop_end_driving_and_ask_for_it(key, requests):
    new = driving()
    press(new, key, mode="TELEOP")
    assert new.requests == requests
    assert new.tick("TELEOP", 0.2) is None


def test_only_a_stop_of_its_own_is_let_go():
    new = driving()
    press(new, "x", "r", mode="TELEOP")
    assert new.requests == ["press_estop", "release_estop", "reset_estop"]
    new.requests.clear()
    press(new, "r", mode="ESTOP")
    assert new.requests == ["reset_estop"], "the button that is pressed now is another's"


@pytest.mark.parametrize("mode", ["POLICY", "HOLD", "ESTOP"])
def test_a_robot_that_somebody_else_takes_is_not_taken_back_by_a_message(mode):
    new = driving()
    assert new.tick(mode, 0.2) is None and not new.is_driving
    assert new.lines and mode in new.lines[-1]


def test_a_takeover_that_does_not_happen_ends_after_a_while_and_says_so():
    new = session()
    press(new, UP)
    assert new.tick("HOLD", TAKEOVER_PATIENCE_S) is not None
    assert new.tick("HOLD", TAKEOVER_PATIENCE_S + 0.1) is None
    assert "the mode is HOLD" in new.lines[-1]


@pytest.mark.parametrize(
    "mode, positions, said",
    [("ESTOP", HERE, "ESTOP"), ("HOLD", None, "fresh joint states")],
    ids=["estop", "no joints"],
)
def test_a_takeover_that_cannot_be_is_refused_and_nothing_is_sent(mode, positions, said):
    new = session()
    press(new, UP, mode=mode, positions=positions)
    assert not new.is_driving and not new.requests and said in new.lines[-1]
    assert new.tick(mode, 0.0) is None


def test_a_refused_takeover_ends_driving_and_a_refused_engage_is_shown():
    new = driving()
    new.answer("takeover", False, "a fault")
    assert not new.is_driving and new.lines[-1] == "takeover refused: a fault"
    new.answer("engage", False, "")
    assert new.lines[-1] == "engage refused: refused without a reason"
    new.answer("engage", True, "the policy drives")
    assert new.lines[-1] == "engage: the policy drives"


def test_episodes_are_marked_from_their_start_to_how_they_ended():
    new = session()
    press(new, "s", "y", "s", "n", "s", "d")
    assert new.marks == ["start", "success", "start", "failure", "start", "discard"]
    assert not new.requests and not new.is_driving
    assert all(mark in MARKERS for mark in new.marks)


@pytest.mark.parametrize("keys, said", [(("y",), "no episode; s starts one"), (("s", "s"), "y, n or d ends it")])
def test_a_mark_that_makes_no_sense_is_not_made_and_that_is_said(keys, said):
    new = session()
    press(new, *keys)
    assert len(new.marks) == len(keys) - 1 and said in new.lines[-1]


def test_an_episode_under_way_shows():
    new = session()
    press(new, "s")
    assert status_line(ROBOT, new, "HOLD", HERE, 100).startswith("HOLD  * episode  [1 shoulder")


def test_q_quits_and_speed_stays_within_its_range():
    new = session()
    assert not press(new, "q")
    press(new, *"]" * 50)
    assert new.jog.speed == 1.0
    press(new, *"[" * 50)
    assert new.jog.speed == 0.05


def test_the_status_line_fits_and_says_mode_joints_and_who_drives():
    new = driving()
    line = status_line(ROBOT, new, "TELEOP", HERE, 100)
    assert line == "TELEOP (you)  [1 shoulder +0.200]  2 elbow -0.50  25%"
    assert status_line(ROBOT, new, "TELEOP", HERE, 50) == "TELEOP (you)  [1 shoulder +0.200]  2 -0.50  25%"
    assert len(status_line(ROBOT, new, "TELEOP", HERE, 20)) == 20
    assert status_line(ROBOT, session(), "", None, 80) == "no vla_policy  no joint states  25%"


@dataclass
class Ends:
    """A terminal: ``master`` is the human's side, ``file`` the program's."""

    master: int
    file: TextIO

    def open(self) -> Terminal:
        return Terminal(self.file, self.file)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.file.fileno())


@pytest.fixture
def ends() -> Iterator[Ends]:
    master, slave = pty.openpty()
    with open(slave, "w") as file:
        yield Ends(master, file)
    os.close(master)


def test_the_terminal_gives_single_keys_and_is_left_as_it_was_whatever_happens(ends):
    master, before = ends.master, ends.settings()
    with pytest.raises(RuntimeError), ends.open() as terminal:
        assert ends.settings() != before
        os.write(master, b"e\x1b")
        assert terminal.keys(1.0) == ["e"]
        os.write(master, b"[A")
        assert terminal.keys(1.0) == [UP]
        os.write(master, b"\x1b")
        assert terminal.keys(1.0) == [] and terminal.keys(0.0) == []
        os.write(master, b"x")
        assert terminal.keys(1.0) == ["x"], "a lone Escape does not swallow the stop"
        raise RuntimeError
    assert ends.settings() == before


def test_lines_stay_above_the_status_line(ends):
    with ends.open() as terminal:
        terminal.show("HOLD")
        terminal.show("HOLD")
        terminal.say("engage refused")
    written = ""
    while not written.endswith("\x1b[?25h"):  # a terminal hands over what it has
        written += os.read(ends.master, 1000).decode()
    assert written.count("\r\x1b[KHOLD") == 1
    assert "\r\x1b[Kengage refused\r\nHOLD" in written
