"""The way of docs/your_own_arm.md from a bare arm to a policy that drives it, its commands as they stand there, without
an override: the arm is an SO-101 played by the fake driver, the human a keyboard in a terminal. Exits 1 where a command
fails, or the policy doesn't move the arm.

    python benchmarks/first_arm.py [--episodes 10] [--drive 20] [--out DIR] [--json FILE]
    python benchmarks/first_arm.py --out DIR --parts record        # then train, then drive, in the same folder
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import topics
from vla_ros.bags.read import BagReader
from vla_ros.cli.output import write_json
from vla_ros.demo.processes import Processes
from vla_ros.robot import load_robot
from vla_ros.share import share_path
from vla_ros.start import begin_as_node, end_with_parent

GUIDE = Path(__file__).resolve().parents[1] / "docs/your_own_arm.md"
DRIVER = "fake_driver_node --ros-args -p robot:=so101"
DRAFT = "vla_ros new robot --from-urdf so101.urdf --out my_arm.yaml"
CHECK = "vla_ros check my_arm.yaml --seconds 3"
NODE = "policy_node --ros-args -p robot:=my_arm.yaml -p policy:={} -p autostart:=true -p 'task:=lift the gripper'"
KEYBOARD = "teleop_keyboard --ros-args -p robot:=my_arm.yaml"
RECORD = "vla_ros record --robot my_arm.yaml --out bags/{} --compress jpeg"
TRAIN = "vla_ros train --robot my_arm.yaml --bags bags --out my_policy"
MODEL = "model_node --ros-args -p policy:=my_policy -p autostart:=true"
CHECK_POLICY = "vla_ros check my_arm.yaml --policy my_policy --seconds 3"
REPLAY = "vla_ros replay bags/driven --robot my_arm.yaml --policy my_policy --out report.html"
COMMANDS = (
    DRIVER, DRAFT, CHECK, NODE.format("none"), KEYBOARD, RECORD.format("monday"), TRAIN, MODEL,
    NODE.format("my_policy"), CHECK_POLICY, RECORD.format("driven"), REPLAY,
)  # fmt: skip
PARTS = ("record", "train", "drive")
UP, DOWN = "\x1b[A", "\x1b[B"
SHOULDER, GRIPPER = "2", "6"
KEY_PERIOD_S = 0.1
JOG_S = 1.5
PATIENCE_S = 300.0
LEAST_MOVED = 0.02  # rad


class Keyboard:
    """``teleop_keyboard`` in a terminal of its own."""

    def __init__(self) -> None:
        self._terminal, inside = pty.openpty()
        termios.tcsetwinsize(inside, (30, 100))
        command = shlex.split(KEYBOARD)
        self._child = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True, preexec_fn=begin_as_node
        )
        self._written = b""

    @property
    def screen(self) -> str:
        """All that it wrote, without colours; its status is written anew at each change."""
        while select.select([self._terminal], [], [], 0)[0]:
            self._written += os.read(self._terminal, 65536)
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self._written.decode(errors="replace"))

    @property
    def said(self) -> str:
        """The lines that stay, each after the status that it came in."""
        shown = [line.rstrip("\r").split("\r") for line in self.screen.split("\n")]
        return "\n".join(text for line in shown for text in line[-2:] if text)

    def press(self, key: str, seconds: float = 0.0) -> None:
        """Once, or held for so long."""
        deadline_s = time.monotonic() + seconds
        while True:
            os.write(self._terminal, key.encode())
            self.watch(KEY_PERIOD_S)
            if time.monotonic() >= deadline_s:
                return

    def watch(self, seconds: float) -> None:
        """Read what it shows: it would wait before a terminal that is full."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            time.sleep(min(seconds, KEY_PERIOD_S))
            said = self.screen
            assert self._child.poll() is None, said

    def mode(self) -> str:
        """The one that it shows."""
        return re.split(r"[\r\n]", self.screen)[-1].partition(" ")[0]

    def close(self) -> None:
        self._child.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(self.screen) and self._child.poll() is not None, "the end of teleop_keyboard")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Raises ValueError where it takes too long."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise ValueError(f"{what} did not come in {PATIENCE_S:.0f} s")
        time.sleep(0.1)


def do(name: str, command: str) -> dict[str, Any]:
    """Run a command to its end; what it says goes to NAME.log and here."""
    began_s = time.monotonic()
    run = subprocess.run(shlex.split(command), capture_output=True, text=True)
    Path(f"{name}.log").write_text(f"$ {command}\n{run.stdout}{run.stderr}")
    print(f"\n$ {command}\n{run.stdout}{run.stderr}", flush=True)
    return {"exit_code": run.returncode, "seconds": round(time.monotonic() - began_s, 1)}


@contextmanager
def recording(name: str, processes: Processes) -> Iterator[None]:
    """``vla_ros record`` from when it hears every topic to Ctrl-C."""
    log = Path(f"record_{name}.log")
    processes.start(log.stem, shlex.split(RECORD.format(name)), end_with_parent)
    wait_until(lambda: "every topic of the robot file comes in" in log.read_text(), "every topic of the robot file")
    yield
    os.kill(processes.pid(log.stem), signal.SIGINT)
    wait_until(lambda: "images as JPEG" in log.read_text(), "the end of the recording")
    print(f"\n$ {RECORD.format(name)}\n{log.read_text()}", flush=True)


def start_node(name: str, command: str, processes: Processes) -> None:
    processes.start(name, shlex.split(command), begin_as_node)
    wait_until(lambda: processes.check() or "]: active" in Path(f"{name}.log").read_text(), f"{name} to be active")


def demonstrate(num_episodes: int, keyboard: Keyboard) -> None:
    """The shoulder and the gripper go up and down again."""
    for _ in range(num_episodes):
        keyboard.press("s")
        for key in (UP, DOWN):
            for joint in (SHOULDER, GRIPPER):
                keyboard.press(joint)
                keyboard.press(key, JOG_S)
        keyboard.press("y")


def describe(processes: Processes) -> None:
    """The robot file: a draft first, and then the one that the guide makes of it."""
    shutil.copy(share_path("config/robots/so101.urdf"), "so101.urdf")
    wait_until(lambda: processes.check() or do("draft", DRAFT)["exit_code"] == 0, "a draft of the robot file")
    text = re.search(r"```yaml\n(name: my_arm\n.*?)```", GUIDE.read_text(), re.DOTALL)
    assert text is not None, f"{GUIDE} has no robot file"
    Path("my_arm.yaml").write_text(text[1])


def record(num_episodes: int, keyboard: Keyboard, processes: Processes) -> None:
    start_node("by_hand", NODE.format("none"), processes)
    wait_until(lambda: keyboard.mode() == "HOLD", "HOLD")
    with recording("monday", processes):
        keyboard.press("e")
        wait_until(lambda: "engage refused: there is no policy" in keyboard.screen, "a refusal to engage")
        demonstrate(num_episodes, keyboard)
        keyboard.press("h")
    print(f"\n$ {KEYBOARD}\n{keyboard.said}", flush=True)
    processes.kill("by_hand")


def drive(seconds: float, keyboard: Keyboard, processes: Processes) -> dict[str, Any]:
    """The policy drives, a human takes over, and gives back."""
    start_node("model", MODEL, processes)
    start_node("policy", NODE.format("my_policy"), processes)
    checked = do("check_policy", CHECK_POLICY)
    with recording("driven", processes):
        for _ in range(2):
            keyboard.press("e")
            wait_until(lambda: keyboard.mode() == "POLICY", "POLICY")
            keyboard.watch(seconds / 2)
            keyboard.press(SHOULDER)
            keyboard.press(UP, JOG_S)
            wait_until(lambda: keyboard.mode() == "TELEOP", "TELEOP")
        keyboard.press("h")
        wait_until(lambda: keyboard.mode() == "HOLD", "HOLD")
    print(f"\n$ {KEYBOARD}\n{keyboard.said}\n\n{Path('policy.log').read_text()}", flush=True)
    return {"check": checked, **driven()}


def driven() -> dict[str, Any]:
    """How long the policy drove in bags/driven, and how far each joint went meanwhile (rad)."""
    robot, reader = load_robot("my_arm.yaml"), BagReader("bags/driven")
    states, mode_topic = f"/{robot.joint_sources[0].topic}", f"/{topics.MODE.name}"
    mode, began_ns, total_ns, seen = "", 0, 0, []
    for message in reader.messages((states, mode_topic)):
        decoded = reader.decode(message)
        if message.topic == states and mode == "POLICY":
            positions = dict(zip(decoded.name, decoded.position, strict=True))
            seen.append([positions[name] for name in robot.joint_names])
        elif message.topic == mode_topic and decoded.data != mode:
            total_ns += message.stamp_ns - began_ns if mode == "POLICY" else 0
            mode, began_ns = decoded.data, message.stamp_ns
    spans = np.ptp(np.array(seen or [[0.0] * robot.num_joints]), axis=0)
    moved = dict(zip(robot.joint_names, np.round(spans, 4).tolist(), strict=True))
    return {"policy_s": round(total_ns / 1e9, 1), "moved_rad": moved}


@contextmanager
def arm(processes: Processes) -> Iterator[Keyboard]:
    """The driver runs, and somebody sits at the keyboard."""
    processes.start("driver", shlex.split(DRIVER), begin_as_node)
    if not Path("my_arm.yaml").exists():
        describe(processes)
    wait_until(lambda: do("check", CHECK)["exit_code"] == 0, "a robot that fits its file")
    keyboard = Keyboard()
    yield keyboard
    keyboard.close()


def walk(args: argparse.Namespace) -> dict[str, Any]:
    """The parts that are wanted, one after the other."""
    figures: dict[str, Any] = {}
    if "record" in args.parts:
        with Processes(Path()) as processes, arm(processes) as keyboard:
            record(args.episodes, keyboard, processes)
    if "train" in args.parts:
        figures["train"] = do("train", TRAIN)
    if "drive" in args.parts:
        with Processes(Path()) as processes, arm(processes) as keyboard:
            figures["drive"] = drive(args.drive, keyboard, processes)
        figures["replay"] = do("replay", REPLAY)
    return figures


def is_good(figures: dict[str, Any]) -> bool:
    """Every command ended well, and the policy moved the arm."""
    drove = figures.get("drive")
    ends = [figures[part]["exit_code"] for part in ("train", "replay") if part in figures]
    if drove is not None and (drove["check"]["exit_code"] or max(drove["moved_rad"].values()) < LEAST_MOVED):
        return False
    return not any(ends)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10, metavar="N", help="to record (default 10)")
    parser.add_argument(
        "--drive", type=float, default=20.0, metavar="S", help="how long the policy drives (default 20)"
    )
    parser.add_argument("--out", metavar="DIR", help="work in this folder, and leave there what was made")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="of the way, in --out (default all)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    if missing := [command for command in COMMANDS if command not in GUIDE.read_text()]:
        parser.error(f"{GUIDE} does not have: {'; '.join(missing)}")
    os.environ.setdefault("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    json_file = args.json and str(Path(args.json).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.out or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        figures = walk(args)
        os.chdir(GUIDE.parent)
    print(figures)
    write_json(json_file, figures)
    return 0 if is_good(figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
