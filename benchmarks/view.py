"""Measures the operator's page beside a live policy node, whose robot of three 640x480 cameras at 30 Hz is only topics:

stop      from STOP pressed in headless Chromium to the first braking command, while a human drives (needs Playwright)
lateness  of the commands, p99, with the page open and without, in turn
cpu       of the page's process with one page open, and its memory from the first quarter to the last
trouble   the page killed and started again, reloaded, with five viewers, with one that reads nothing: the worst gap
          between two commands in each, and whether the mode changed
start     from ``vla_ros view --demo`` to the arm in a page

A page that is "open" is a connection that takes all that a browser would get, in a process of its own: what a browser
draws costs its own machine. Exits 1 where a row misses what is wanted of it.

    python benchmarks/view.py [--row NAME ...] [--seconds 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rclpy.node import Node
from reaction import Reaction, summary, use_own_domain
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from websockets.sync.client import connect

from vla_ros import topics
from vla_ros.demo.processes import Processes
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import load_robot
from vla_ros.ros.endpoints import make_publisher, subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.qos import EVERYTHING
from vla_ros.ros.signals import ros_running
from vla_ros.share import robot_file
from vla_ros.types import Mode
from vla_ros.view.operator import UNSEEN_S
from vla_ros.view.server import SOCKET

START_TIMEOUT_S, PATIENCE_S = 120.0, 60.0
NUM_TURNS, NUM_VIEWERS = 3, 5
TELEOP_PERIOD_S = 0.02
MAX_STOP_MS, MAX_CPU_SHARE, MAX_START_S = 150.0, 0.40, 30.0
MAX_LATENESS_FACTOR, MAX_LATENESS_EXTRA_MS = 1.1, 0.3
MAX_GROWTH_MB = 5.0
# A command that doesn't come for so many periods would be noticed.
MAX_GAP_PERIODS = 3.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CHROMIUM, CHROMIUM_ARGUMENTS = "/usr/bin/chromium", ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


class Rig(Node):
    """The policy node, a robot of topics, a hand that may lead it, and whoever looks at the commands."""

    def __init__(self, folder: Path, processes: Processes, num_stops: int) -> None:
        super().__init__("view_rig")
        self.processes = processes
        self.folder = folder
        self.num_stops = num_stops
        self.robot_path = write_robot(folder)
        self.robot = load_robot(self.robot_path)
        self.reaction = Reaction()
        self.modes: list[str] = []
        self.lateness_ms: list[float] = []
        self.sent_ns: list[int] = []
        self._teleop = make_publisher(self, topics.TELEOP)
        subscribe(self, topics.MODE, self._on_mode)
        CommandInputs(self, self.robot, self._on_command, EVERYTHING)

    def start(self) -> None:
        self.processes.start_node("control_cameras", {"robot": str(self.robot_path)})
        parameters = {"robot": str(self.robot_path), "policy": "none", "autostart": True}
        self.processes.start_node("policy_node", parameters)
        if not self.reaction.wait_for(lambda: bool(self.sent_ns), START_TIMEOUT_S):
            raise SystemExit(f"no command in {START_TIMEOUT_S:g} s: {self.processes.last_line('policy_node')}")

    @contextmanager
    def page(self) -> Iterator[str]:
        """The page's node; its address."""
        parameters = {"robot": str(self.robot_path), "view_port": 0}
        self.processes.start_node("view_node", parameters)
        yield find_url(self.folder / "view_node.log")
        self.processes.kill("view_node")

    @contextmanager
    def viewer(self, url: str, name: str = "viewer", deaf: bool = False) -> Iterator[None]:
        """An open page that takes everything, or one that is ``deaf``, in a process of its own."""
        command = [sys.executable, __file__, "--viewer", url, *(["--deaf"] if deaf else [])]
        self.processes.start(name, command)
        time.sleep(2.0)
        yield
        self.processes.kill(name)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """A human drives."""
        ending = threading.Event()
        thread = threading.Thread(target=self._lead, args=(ending,))
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def look(self, seconds: float, disturb: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Lateness, the longest gap and the modes in the time to come, in which ``disturb`` is called."""
        self.lateness_ms, self.sent_ns, self.modes = [], [], []
        began_s = time.monotonic()
        disturb()
        time.sleep(max(0.0, began_s + seconds - time.monotonic()))
        gaps = np.diff(np.array(self.sent_ns)) * 1e-6
        return {
            "p50_ms": round(float(np.percentile(self.lateness_ms, 50)), 3),
            "p99_ms": round(float(np.percentile(self.lateness_ms, 99)), 3),
            "max_gap_ms": round(float(gaps.max()), 1),
            "num": len(self.lateness_ms),
            "modes": sorted(set(self.modes)),
        }

    def _on_mode(self, msg: String, info: dict[str, Any]) -> None:
        self.modes.append(msg.data)
        self.reaction.heard_mode(msg.data, info["source_timestamp"])

    def _on_command(self, trajectory: Trajectory, info: dict[str, Any]) -> None:
        sent_ns = info["source_timestamp"]
        self.sent_ns.append(sent_ns)
        self.lateness_ms.append((sent_ns - trajectory.stamp_ns) * 1e-6)
        self.reaction.heard_command(sent_ns)

    def _lead(self, ending: threading.Event) -> None:
        middle = (self.robot.joint_values("lower") + self.robot.joint_values("upper")) / 2
        began_s = time.monotonic()
        while not ending.wait(TELEOP_PERIOD_S):
            point = JointTrajectoryPoint(positions=(middle + 0.1 * np.sin(time.monotonic() - began_s)).tolist())
            self._teleop.publish(JointTrajectory(joint_names=self.robot.joint_names, points=[point]))


def write_robot(folder: Path) -> Path:
    """The demo's robot with three larger cameras."""
    document = yaml.safe_load(robot_file("tabletop").read_text())
    document["kinematics"]["urdf"] = str(robot_file("tabletop").with_suffix(".urdf"))
    document["cameras"] = [
        {"name": name, "topic": f"{name}/image", "width": 640, "height": 480, "rate_hz": 30, "max_age_s": 0.5}
        for name in ("front", "top", "wrist")
    ]
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def find_url(log: Path) -> str:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if found := re.search(r"page is at (http://[\w.:]+/)", log.read_text() if log.exists() else ""):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"no page in {START_TIMEOUT_S:g} s; see {log}")


def measure_stop(rig: Rig, seconds: float) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    delays_s = []
    with rig.page() as url, sync_playwright() as playwright, rig.leading():
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(url)
        page.wait_for_function("() => document.body.dataset.mode === 'TELEOP'", timeout=1000 * START_TIMEOUT_S)
        box = page.locator("#stop").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(rig.num_stops):
            time.sleep(np.random.default_rng().uniform(0.3, 0.4))  # anywhere in a control period
            delay_s = rig.reaction.time_s(page.mouse.down, (Mode.ESTOP,), PATIENCE_S)
            if delay_s is None:
                raise SystemExit(f"no braking command in {PATIENCE_S:g} s")
            delays_s.append(delay_s)
            page.mouse.up()
            page.wait_for_function("() => document.body.dataset.mode === 'ESTOP'")
            time.sleep(UNSEEN_S)
            page.click("[data-act=reset]")
            page.wait_for_function("() => document.body.dataset.mode === 'TELEOP'", timeout=1000 * PATIENCE_S)
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        browser.close()
    figures = summary(delays_s)
    return {**figures, "wanted_p99_ms": MAX_STOP_MS, "good": bool(figures["p99_ms"] <= MAX_STOP_MS)}


def measure_lateness(rig: Rig, seconds: float) -> dict[str, Any]:
    without, opened = [], []
    for _ in range(NUM_TURNS):
        without.append(rig.look(seconds / 2 / NUM_TURNS)["p99_ms"])
        with rig.page() as url, rig.viewer(url):
            time.sleep(3.0)  # discovery, and its first imports
            opened.append(rig.look(seconds / 2 / NUM_TURNS)["p99_ms"])
    most_ms = MAX_LATENESS_FACTOR * float(np.median(without)) + MAX_LATENESS_EXTRA_MS
    good = float(np.median(opened)) <= most_ms
    return {"without_p99_ms": without, "open_p99_ms": opened, "wanted_ms": round(most_ms, 3), "good": good}


def measure_cpu(rig: Rig, seconds: float) -> dict[str, Any]:
    with rig.page() as url:
        pid = rig.processes.pid("view_node")
        with rig.viewer(url):
            time.sleep(5.0)
            began_s, before_s, sizes_mb = time.monotonic(), cpu_s(pid), []
            while time.monotonic() - began_s < seconds:
                time.sleep(min(1.0, seconds / 20))
                sizes_mb.append(memory_mb(pid))
            share = (cpu_s(pid) - before_s) / (time.monotonic() - began_s)
    quarter = max(1, len(sizes_mb) // 4)
    growth_mb = float(np.mean(sizes_mb[-quarter:]) - np.mean(sizes_mb[:quarter]))
    good = share <= MAX_CPU_SHARE and growth_mb <= MAX_GROWTH_MB
    return {
        "share_of_a_core": round(share, 3), "memory_mb": round(sizes_mb[-1], 1), "growth_mb": round(growth_mb, 2),
        "seconds": seconds, "wanted_share": MAX_CPU_SHARE, "wanted_growth_mb": MAX_GROWTH_MB, "good": good,
    }  # fmt: skip


def measure_trouble(rig: Rig, seconds: float) -> dict[str, Any]:
    part_s = max(3.0, seconds / 6)
    rig.reaction.wait_for(lambda: rig.reaction.mode == Mode.HOLD, PATIENCE_S)
    figures = {"calm": rig.look(part_s)}

    def kill_and_start_again() -> None:
        for _ in range(2):
            with rig.page():
                time.sleep(0.5)

    with rig.page() as url, rig.viewer(url):
        figures["reload"] = rig.look(part_s, lambda: [urllib.request.urlopen(url).read() for _ in range(20)])
        with rig.viewer(url, "deaf", deaf=True):
            figures["one that reads nothing"] = rig.look(part_s)
    with rig.page() as url, ExitStack() as viewers:
        for number in range(NUM_VIEWERS):
            viewers.enter_context(rig.viewer(url, f"viewer {number}"))
        figures["five viewers"] = rig.look(part_s)
    figures["killed"] = rig.look(part_s, kill_and_start_again)
    most_ms = MAX_GAP_PERIODS * 1e3 / rig.robot.control_rate_hz
    good = all(one["modes"] == [Mode.HOLD] and one["max_gap_ms"] <= most_ms for one in figures.values())
    return {**figures, "wanted_max_gap_ms": most_ms, "good": good}


def measure_start(folder: Path) -> dict[str, Any]:
    """In a domain of its own: seconds until a page shows the arm."""
    log = folder / "start.log"
    env = {key: value for key, value in os.environ.items() if key != "ROS_DOMAIN_ID"}
    command = [sys.executable, "-m", "vla_ros.cli", "view", "--demo", "--port", "0", "--out", str(folder)]
    began_s = time.monotonic()
    with log.open("wb") as file:
        view = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True)
    try:
        seen_s = wait_for_arm(find_url(log)) - began_s
    finally:
        view.send_signal(signal.SIGINT)
        view.wait(PATIENCE_S)
    return {"seconds": round(seen_s, 2), "wanted_s": MAX_START_S, "good": seen_s <= MAX_START_S}


def wait_for_arm(url: str) -> float:
    """When a page has joints and a picture of each of the demo's two cameras."""
    has_joints, cameras = False, set()
    with connect(socket_of(url), max_size=None) as socket:
        socket.send("{}")
        while not has_joints or len(cameras) < 2:
            message = socket.recv(timeout=START_TIMEOUT_S)
            if isinstance(message, bytes):
                cameras.add(message[1])
            elif (document := json.loads(message))["kind"] == "pose":
                has_joints = document["joints"] is not None
    return time.monotonic()


def watch(url: str, is_deaf: bool) -> None:
    """What a browser would get, until the process is ended."""
    with connect(socket_of(url), max_size=None, max_queue=1 if is_deaf else 64) as socket:
        socket.send("{}")
        while True:
            time.sleep(PATIENCE_S) if is_deaf else socket.recv()


def socket_of(url: str) -> str:
    return url.replace("http", "ws", 1).rstrip("/") + SOCKET


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_mb(pid: int) -> float:
    """What is its own alone: shared memory of DDS is counted by whoever maps it."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


ROWS = {"stop": measure_stop, "lateness": measure_lateness, "cpu": measure_cpu, "trouble": measure_trouble}


def measure(names: list[str], seconds: float, num_stops: int) -> dict[str, Any]:
    """The figures of each row."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "start" in names:
            figures["start"] = measure_start(Path(folder))
        live = [name for name in names if name in ROWS]
        if not live:
            return figures
        with ros_running(), Processes(Path(folder)) as processes:
            rig = Rig(Path(folder), processes, num_stops)
            with spinning(rig):
                rig.start()
                for name in live:
                    figures[name] = ROWS[name](rig, seconds)
                    print(f"{name}: {json.dumps(figures[name])}", flush=True)
                processes.check()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = (*ROWS, "start")
    parser.add_argument("--stops", type=int, default=50, metavar="N", help="of the row stop (default 50)")
    parser.add_argument("--row", nargs="+", choices=choices, default=list(choices), help="these alone (default all)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of a row that lasts (default 60)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--viewer", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--deaf", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.viewer:
        watch(args.viewer, args.deaf)
    use_own_domain()
    figures = measure(args.row, args.seconds, args.stops)
    if "start" in figures:
        print(f"start: {json.dumps(figures['start'])}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")
    missed = [name for name, row in figures.items() if not row["good"]]
    print(f"missed: {', '.join(missed)}" if missed else "every row is as wanted")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
