"""The keyboard in a real terminal, before a node that answers as the policy node does."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_policy_node import HERE, ROBOT, FakePolicyNode
from ros_harness import ROBOT_FILE, SOURCE_ROOT, START_PATIENCE_S, wait_until

from vla_ros.messages.trajectories import parse_trajectory

UP, RIGHT = b"\x1b[A", b"\x1b[C"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
COMMAND = [sys.executable, "-m", "vla_ros.teleop.keyboard", "--ros-args", "-p", f"robot:={ROBOT_FILE}"]


class Keyboard:
    """``teleop_keyboard`` in a terminal of 100 columns; ``screen`` is what it wrote, without colours."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (30, 100))
        self.before = termios.tcgetattr(self.slave)
        self._written = b""
        env = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(SOURCE_ROOT), os.environ.get("PYTHONPATH", "")])}
        self.child = subprocess.Popen(
            COMMAND, stdin=self.slave, stdout=self.slave, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )

    @property
    def screen(self) -> str:
        while select.select([self._master], [], [], 0)[0]:
            self._written += os.read(self._master, 65536)
        return re.sub(r"\x1b\[[\d;]*m", "", self._written.decode(errors="replace"))

    @property
    def status(self) -> str:
        return re.split(r"\r\x1b\[K|\n", self.screen)[-1]

    def press(self, *keys: bytes) -> None:
        os.write(self._master, b"".join(keys))

    def wait(self) -> int:
        """Its exit code; the screen is read meanwhile, for a full one would keep it from ending."""
        wait_until(lambda: self.screen and self.child.poll() is not None, "its end")
        return self.child.returncode

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def fake(ros: None) -> Iterator[FakePolicyNode]:
    fake = FakePolicyNode()
    yield fake
    fake.close()


@pytest.fixture
def keyboard(fake: FakePolicyNode) -> Iterator[Keyboard]:
    keyboard = Keyboard()
    try:
        wait_until(
            lambda: "HOLD  [1 base +0.300]" in keyboard.status, f"its first status: {keyboard.screen}", START_PATIENCE_S
        )
        for topic in ("teleop", "estop", "episode"):
            wait_until(lambda: fake.node.count_publishers(f"/vla_policy/{topic}"), f"its publisher of {topic}")
        # That its clients are found, too, shows nowhere.
        time.sleep(0.5)
        yield keyboard
    finally:
        keyboard.close()


def is_silent(fake: FakePolicyNode) -> bool:
    return time.monotonic() - fake.received_s[-1] > 0.3


def test_it_takes_over_with_the_first_jog_key_and_keeps_the_robot_until_the_policy_is_engaged(fake, keyboard):
    time.sleep(0.2)  # in which it would send ten times
    assert not fake.trajectories, "silent before the first key"
    keyboard.press(RIGHT, UP)
    wait_until(lambda: len(fake.trajectories) > 20 and "TELEOP (you)" in keyboard.status, "targets")
    assert "takeover" in fake.calls
    parsed = [parse_trajectory(msg, ROBOT.joint_names) for msg in fake.trajectories]
    assert all(trajectory.times_s.tolist() == [0.1] and trajectory.stamp_ns == 0 for trajectory in parsed)
    targets = np.array([trajectory.positions[0] for trajectory in parsed])
    np.testing.assert_allclose(targets[:, [0, 2]], np.tile(HERE[[0, 2]], (len(targets), 1)))
    np.testing.assert_allclose(targets[-1, 1], HERE[1] + 0.25 * ROBOT.joints[1].max_velocity * 0.1)
    assert abs(np.median(np.diff(fake.received_s)) - 0.05) < 0.01

    keyboard.press(b"e")
    wait_until(lambda: "engage: POLICY it is" in keyboard.screen, "the answer")
    wait_until(lambda: keyboard.status.startswith("POLICY  "), "the mode")
    wait_until(lambda: is_silent(fake), "silence")
    assert fake.mode == "POLICY"


def test_a_refusal_is_shown_above_the_status_and_a_stop_is_latched_and_reset(fake, keyboard):
    fake.refusals["engage"] = "camera 'front' is silent"
    keyboard.press(b"e")
    wait_until(lambda: "engage refused: camera 'front' is silent\r\n" in keyboard.screen, "the refusal")
    keyboard.press(UP)
    wait_until(lambda: fake.mode == "TELEOP", "TELEOP")
    keyboard.press(b"x")
    wait_until(lambda: fake.estops == [True] and keyboard.status.startswith("ESTOP  ["), "the stop")
    keyboard.press(UP)
    wait_until(lambda: "no takeover in ESTOP" in keyboard.screen, "the refusal")
    keyboard.press(b"r")
    wait_until(lambda: fake.estops == [True, False] and "reset_estop: HOLD it is" in keyboard.screen, "the reset")
    keyboard.press(UP)
    wait_until(lambda: fake.mode == "TELEOP", "TELEOP")
    keyboard.press(b"h")
    wait_until(lambda: "hold" in fake.calls and keyboard.status.startswith("HOLD  ["), "HOLD")


def test_episodes_are_marked_for_who_records(fake, keyboard):
    keyboard.press(b"s", b"y", b"s", b"d", b"n")
    wait_until(lambda: len(fake.marks) == 4, "the marks")
    assert fake.marks == ["start", "success", "start", "discard"]
    wait_until(lambda: "no episode; s starts one" in keyboard.screen, "that there is none")
    assert not fake.trajectories and "nobody records" not in keyboard.screen


def test_the_newest_of_two_keys_counts(fake, keyboard):
    keyboard.press(b"e", UP)
    wait_until(lambda: "TELEOP (you)" in keyboard.status, "TELEOP")
    wait_until(lambda: len(fake.trajectories) > 20, "targets")
    assert "engage" not in fake.calls and fake.mode == "TELEOP"


def test_a_robot_engaged_by_somebody_else_is_left_alone(fake, keyboard):
    keyboard.press(UP)
    # The mode comes with the answer of a service, the first message may follow it.
    wait_until(lambda: fake.received_s and "TELEOP (you)" in keyboard.status, "TELEOP")
    fake.go_to("POLICY")
    # A message on its way may take over once more, as with any human; what counts is that it ends.
    wait_until(lambda: is_silent(fake), "silence")
    wait_until(lambda: "you no longer drive" in keyboard.screen, "why")


@pytest.mark.parametrize("end", [b"q", signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_the_terminal_is_as_it_was_after_every_end(fake, keyboard, end):
    assert termios.tcgetattr(keyboard.slave) != keyboard.before
    if isinstance(end, bytes):
        keyboard.press(end)
    else:
        keyboard.child.send_signal(end)
    assert keyboard.wait() == 0
    assert termios.tcgetattr(keyboard.slave) == keyboard.before
    assert keyboard.screen.endswith("\x1b[?25h")


@pytest.mark.parametrize("extra", [[], ["-p", "robot:=/no/such.yaml"]], ids=["no terminal", "no robot"])
def test_it_says_in_one_line_why_it_cannot_start(extra: list[str], tmp_path: Path):
    master, slave = pty.openpty()
    ends = {"stdin": slave, "stdout": slave} if extra else {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    env = {**ENVIRONMENT, "PYTHONPATH": str(SOURCE_ROOT)}
    run = subprocess.run(COMMAND + extra, **ends, stderr=subprocess.PIPE, text=True, env=env, timeout=60)
    os.close(master)
    os.close(slave)
    assert run.returncode == 2
    assert run.stderr.startswith("teleop_keyboard: ") and run.stderr.count("\n") == 1
