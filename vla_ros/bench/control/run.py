"""``vla_ros bench --control``: what the control promises, measured on the real nodes.

Most of it in one run of the demo's world, along with an idle ticker (idle_ticker.py). A strategy other than ``latest``
then has ``latest`` drive the same scenes in a world of its own, as a yardstick for chunk switches. Last, a robot that
is three large cameras tells what the policy node costs (camera_run.py).
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from vla_ros import topics
from vla_ros.bench.control.camera_rows import not_measured
from vla_ros.bench.control.camera_run import measure_cameras
from vla_ros.bench.control.operator import PATIENCE_S, Operator, driven_by
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.bench.control.rows import ENOUGH_SWITCHES, BenchRun, Drive, Driven, Span, control_rows
from vla_ros.bench.control.table import Row
from vla_ros.demo.client import DEACTIVATE
from vla_ros.demo.processes import Processes
from vla_ros.demo.world import START_TIMEOUT_S, DemoWorld, WorldConfig, running_world
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file
from vla_ros.types import Mode

MIN_TAKEOVERS, MAX_TAKEOVERS = 2, 20
TAKEOVERS_PER_SCENE = 4
TELEOP_S = 0.15
NUDGE_RAD = 0.05
HOLD_WATCH_S = 2.0
ELSEWHERE = [
    Row("success with 0, 100, 200 and 300 ms of delay: see benchmarks/delays.py", None, None, ""),
    Row("an hour of faults: see benchmarks/faults.py", None, None, ""),
]
"""What needs a script of its own, which runs for an hour or more."""
MAX_REST_S = 20.0
"""The longest that the idle ticker is heard alone; it is never heard alone for longer than the policy drives."""
NUM_SWITCHES = round(1.1 * ENOUGH_SWITCHES)
"""Some more than are needed, for not every one can be judged."""


def run_control_bench(config: WorldConfig, seconds: float) -> list[Row]:
    """Run it all and say what is going on; the policy drives for ``seconds`` in all, longer where chunk switches are
    compared and there are too few.

    Raises ValueError where a node ends, cannot start or does not answer.
    """
    robot = load_robot(robot_file(config.robot))
    robot = replace(robot, control_rate_hz=config.control_rate_hz or robot.control_rate_hz)
    config = replace(config, control_rate_hz=robot.control_rate_hz)
    config.log_dir.mkdir(parents=True, exist_ok=True)
    with running_world(config, robot, ControlProbe) as world:
        with Processes(config.log_dir) as idle:
            idle.start_node("control_ticker", {"robot": config.robot, "control_rate_hz": robot.control_rate_hz})
            observed = _Bench(config, robot, world, seconds).run()
    latest = None if config.strategy == "latest" else _drive_latest(config, robot, seconds)
    return control_rows(observed, robot, latest) + _camera_rows(config, seconds) + ELSEWHERE


def _drive_latest(config: WorldConfig, robot: RobotConfig, seconds: float) -> Driven:
    """The same scenes once more, by ``latest`` with chunks that nothing guides."""
    config = replace(config, strategy="latest", log_dir=config.log_dir / "latest")
    with running_world(config, robot, ControlProbe) as world:
        world.start()
        operator = Operator(world)
        print(f"the policy drives for {seconds:g} s by strategy latest", flush=True)
        return driven_by(config, operator.drive_for(seconds, operator.new_scene, NUM_SWITCHES), world.client)


def _camera_rows(config: WorldConfig, seconds: float) -> list[Row]:
    """Where the cameras are too much for the machine, that is a failure of this row and of no other."""
    try:
        return measure_cameras(config, seconds)
    except ValueError as error:
        print(f"three large cameras: {error}", flush=True)
        return not_measured("see above")


class _Bench(Operator):
    def __init__(self, config: WorldConfig, robot: RobotConfig, world: DemoWorld[ControlProbe], seconds: float) -> None:
        super().__init__(world)
        self._config = config
        self._robot = robot
        self._seconds = seconds

    def run(self) -> BenchRun:
        self._world.start()
        if not self._probe.wait_until(lambda: self._probe.is_teleop_heard, PATIENCE_S):
            raise ValueError(f"policy_node does not listen to '{topics.TELEOP}'; see its log")
        if not self._probe.wait_until(lambda: bool(self._probe.idle_ns), START_TIMEOUT_S):
            raise ValueError("control_ticker never started; see its log")
        print(f"the policy drives for {self._seconds:g} s by strategy {self._config.strategy}", flush=True)
        num_switches = 0 if self._config.strategy == "latest" else NUM_SWITCHES
        drives = self.drive_for(self._seconds, self.new_scene, num_switches)
        hands_ns = self._take_over()
        killed = self._kill_model()
        back = self._restart_model()
        self._world.lead(DEACTIVATE)
        return BenchRun(
            driven=driven_by(self._config, drives, self._probe),
            scenes_ns=self._probe.scenes_ns,
            hands_ns=hands_ns,
            killed=killed,
            back=back,
            rest=self._rest(),
            idle_ns=self._probe.idle_ns,
            num_drops=self.num_drops,
        )

    def _take_over(self) -> list[int]:
        """A human takes over again and again, and gives back at once; when, ns."""
        count = round(min(max(self._seconds, MIN_TAKEOVERS), MAX_TAKEOVERS))
        print(f"a human takes over {count} times", flush=True)
        lower, upper = self._robot.joint_values("lower"), self._robot.joint_values("upper")
        hands_ns = []
        for i in range(count):
            if i % TAKEOVERS_PER_SCENE == 0:
                self.new_scene()
            self.engage()
            self.drive_a_little()
            # Towards the middle of every joint's range: never outside.
            positions = self._probe.last_positions
            nudge = NUDGE_RAD * np.sign((lower + upper) / 2 - positions)
            hands_ns.append(self._probe.teleop(positions + nudge))
            self._probe.wait_until(lambda: self._probe.mode == Mode.TELEOP, 1.0)
            time.sleep(TELEOP_S)
        self.hold()
        return hands_ns

    def _kill_model(self) -> Drive:
        """The model node dies while the policy drives: until it stands still, from the kill on."""
        print("kill -9 of the model node, then it starts again", flush=True)
        self.new_scene()
        while True:
            engaged_ns = self.engage()
            self.drive_a_little()
            if self._probe.mode == Mode.POLICY:
                break
            self.report_drop()
        kill_ns = time.time_ns()
        self._world.processes.kill("model_node")
        self._probe.wait_until(lambda: self._probe.mode == Mode.HOLD and self._probe.has_stopped, PATIENCE_S)
        return Drive(engaged_ns, Span(kill_ns, time.time_ns()))

    def _restart_model(self) -> Span:
        """The model node comes back and must be engaged again: from when it is ready until then."""
        restart_ns = time.time_ns()
        self._world.start_model()
        if not self._probe.wait_until(lambda: self._probe.model_works_since(restart_ns), START_TIMEOUT_S):
            raise ValueError(f"model_node never came back: {self._world.processes.last_line('model_node')}")
        back_ns = time.time_ns()
        time.sleep(HOLD_WATCH_S)
        back = Span(back_ns, time.time_ns())
        self.engage()
        self.hold()
        return back

    def _rest(self) -> Span:
        """Nothing runs any more but the idle ticker."""
        self._world.processes.stop()
        start_ns = time.time_ns()
        time.sleep(min(self._seconds, MAX_REST_S))
        return Span(start_ns, time.time_ns())
