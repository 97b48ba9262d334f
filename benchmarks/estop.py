"""Times the emergency stop: from the message on ``estop`` to the first command that brakes, on a live policy node, by
the senders' own stamps. First calm, then while another process floods that node with all that is far too large: teleop
trajectories of 60,000 points, instructions of 50 MB and joint states of 200,000 names.

Each stop is reset before the next. Calm, a human drives; under the flood the robot holds, for an unusable message of a
human's ends in HOLD. Exits 1 above ``--max-calm-ms`` or ``--max-flood-ms`` at p99: a period and 5 ms, two and 10 ms.

    python benchmarks/estop.py [--stops 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from reaction import Reaction, summary, use_own_domain
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.demo.processes import Processes
from vla_ros.robot import load_robot
from vla_ros.ros import qos
from vla_ros.ros.endpoints import make_client, make_publisher, subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.outputs import CommandInputs
from vla_ros.ros.signals import ros_running
from vla_ros.share import robot_file
from vla_ros.types import Mode

ROBOT = "tabletop"
START_TIMEOUT_S, PATIENCE_S, ASK_EVERY_S = 120.0, 60.0, 0.25
JOINTS_PERIOD_S, TELEOP_PERIOD_S = 0.01, 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=200, metavar="N", help="how many of each kind (default 200)")
    parser.add_argument("--max-calm-ms", type=float, default=25.0, metavar="MS", help="exit 1 above it (default 25)")
    parser.add_argument("--max-flood-ms", type=float, default=50.0, metavar="MS", help="exit 1 above it (default 50)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    use_own_domain()
    figures = measure(args.stops)
    for name, values in figures.items():
        print(f"{name:<6} {values['num']} stops, ms to the first braking command: {values['p50_ms']} p50, ", end="")
        print(f"{values['p99_ms']} p99, {values['max_ms']} max")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")
    good = figures["calm"]["p99_ms"] <= args.max_calm_ms and figures["flood"]["p99_ms"] <= args.max_flood_ms
    return 0 if good else 1


def measure(num_stops: int) -> dict[str, dict[str, float]]:
    """The figures of both kinds."""
    with ros_running(), tempfile.TemporaryDirectory() as logs, Processes(Path(logs)) as processes:
        processes.start_node("policy_node", {"robot": ROBOT, "autostart": True})
        stopper = Stopper()
        try:
            with spinning(stopper), stopper.playing():
                stopper.wait_for(Mode.TELEOP, START_TIMEOUT_S)
                calm = [stopper.stop() for _ in range(num_stops)]
                stopper.is_leading = False
                processes.start("flood", [sys.executable, str(Path(__file__).with_name("large_messages.py"))])
                time.sleep(2.0)  # until its messages are made
                flooded = [stopper.stop() for _ in range(num_stops)]
                processes.check()
        finally:
            stopper.destroy_node()
    return {"calm": summary(calm), "flood": summary(flooded)}


class Stopper(Node):
    """A robot that is where it is told to be, a hand that leads it, and a stop button."""

    def __init__(self) -> None:
        super().__init__("stopper")
        self.is_leading = True
        self._robot = robot = load_robot(robot_file(ROBOT))
        self._positions = np.zeros(robot.num_joints)
        self._joints = self.create_publisher(JointState, robot.joint_sources[0].topic, qos.JOINT_STATES)
        self._stop, self._teleop = make_publisher(self, topics.ESTOP), make_publisher(self, topics.TELEOP)
        self._reset = make_client(self, topics.RESET_ESTOP)
        self._reaction = Reaction()
        subscribe(self, topics.MODE, self._on_mode)
        CommandInputs(self, robot, self._on_command)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Sensors and, while ``is_leading``, a hand are heard."""
        ending = threading.Event()
        threads = [threading.Thread(target=run, args=(ending,)) for run in (self._play, self._lead)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()

    def wait_for(self, mode: Mode, patience_s: float = PATIENCE_S) -> None:
        if not self._reaction.wait_for(lambda: self._reaction.mode == mode, patience_s):
            raise SystemExit(f"no {mode} in {patience_s:g} s; {self._reaction.mode or 'nothing'} was heard last")

    def stop(self) -> float:
        """Press the stop, see the robot brake, and reset: from the one to the other, s."""
        if self.is_leading:
            self.wait_for(Mode.TELEOP)
        time.sleep(np.random.default_rng().uniform(0.02, 0.06))  # anywhere in a control period
        delay_s = self._reaction.time_s(lambda: self._stop.publish(Bool(data=True)), (Mode.ESTOP,), PATIENCE_S)
        if delay_s is None:
            raise SystemExit(f"no braking command in {PATIENCE_S:g} s")
        self._stop.publish(Bool(data=False))
        while self._reaction.mode == Mode.ESTOP:
            self._reset.call_async(Trigger.Request())
            self._reaction.wait_for(lambda: self._reaction.mode != Mode.ESTOP, ASK_EVERY_S)
        return delay_s

    def _on_mode(self, msg: String, info: dict[str, Any]) -> None:
        self._reaction.heard_mode(msg.data, info["source_timestamp"])

    def _on_command(self, trajectory: Any, info: dict[str, Any]) -> None:
        self._positions = trajectory.positions[0]
        self._reaction.heard_command(info["source_timestamp"])

    def _play(self, ending: threading.Event) -> None:
        while not ending.wait(JOINTS_PERIOD_S):
            msg = JointState(name=self._robot.joint_names, position=self._positions.tolist())
            msg.header.stamp = self.get_clock().now().to_msg()
            self._joints.publish(msg)

    def _lead(self, ending: threading.Event) -> None:
        began_s = time.monotonic()
        while not ending.wait(TELEOP_PERIOD_S):
            if self.is_leading:
                hand = 0.1 * np.sin(time.monotonic() - began_s) * np.ones(self._robot.num_joints)
                point = JointTrajectoryPoint(positions=hand.tolist())
                self._teleop.publish(JointTrajectory(joint_names=self._robot.joint_names, points=[point]))


if __name__ == "__main__":
    raise SystemExit(main())
