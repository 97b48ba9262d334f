"""``vla_ros bench --control``: what the control promises, measured on the real nodes.

Most of it in one run of the demo's world, along with an idle ticker (idle_ticker.py). A strategy other than ``latest``
then has ``latest`` drive the same scenes in a world of its own, as a yardstick for chunk switches. Last, a robot that
is three large cameras at 30 Hz (cameras.py), with a chunk about each 200 ms and commands at 50 Hz, tells what the
policy node costs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import Image

from vla_ros import topics
from vla_ros.bench.control import rows
from vla_ros.bench.control.judge import Span
from vla_ros.bench.control.operator import PATIENCE_S, Operator
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.bench.control.rows import CAMERA_RATE_HZ, CONTROL_RATE_HZ, BenchRun, Drive, Driven, Row
from vla_ros.demo.client import DEACTIVATE
from vla_ros.demo.processes import Processes
from vla_ros.demo.world import START_TIMEOUT_S, DemoWorld, WorldConfig, running_world
from vla_ros.robot import RobotConfig
from vla_ros.ros.qos import WATCH
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
CAMERAS_ROBOT, MAX_CAMERAS_S = "tabletop", 60.0
CAMERAS_DELAY_MS = 150.0
"""The tiny policy's own time and its way make a chunk each 200 ms of it."""
NUM_SWITCHES = round(1.1 * rows.ENOUGH_SWITCHES)
"""Some more than are needed, for not every one can be judged."""


def run_control_bench(config: WorldConfig, seconds: float) -> list[Row]:
    """Run it all and say what is going on; the policy drives for ``seconds`` in all, longer where chunk switches are
    compared and there are too few.

    Raises ValueError where a node ends, cannot start or does not answer.
    """
    with running_world(config, ControlProbe) as world:
        robot = world.client.robot
        with _idle_ticker(world):
            observed = _Bench(world).run(seconds)
    latest = None if config.strategy == "latest" else _drive_latest(config, seconds)
    found = rows.control_rows(observed, robot, latest)
    try:
        found += _measure_cameras(config, seconds)
    except ValueError as error:  # too much for the machine: a failure of this row and of no other
        print(f"three large cameras: {error}", flush=True)
        found += rows.cameras_not_measured("see above")
    return found + ELSEWHERE


def _drive_latest(config: WorldConfig, seconds: float) -> Driven:
    """The same scenes once more, by ``latest`` with chunks that nothing guides."""
    config = replace(config, strategy="latest", log_dir=config.log_dir / "latest")
    with running_world(config, ControlProbe) as world:
        world.start()
        operator = Operator(world)
        print(f"the policy drives for {seconds:g} s by strategy latest", flush=True)
        return operator.driven(operator.drive_for(seconds, operator.new_scene, NUM_SWITCHES))


def _measure_cameras(config: WorldConfig, seconds: float) -> list[Row]:
    """Drive for so long, at most a minute, as ``config`` says of strategy and logs; robot file, policy and logs go to
    its folder ``cameras``.

    Raises ValueError where a node ends, cannot start or does not answer.
    """
    from vla_ros.bench.control import camera_policy  # only now: torch would disturb what was measured before

    folder = config.log_dir / "cameras"
    folder.mkdir(parents=True, exist_ok=True)
    robot = camera_policy.write_robot(folder / "robot.yaml", CAMERAS_ROBOT)
    camera_policy.write_policy(folder / "policy", robot)
    gc.collect()
    gc.freeze()  # or the collector walks through torch while images wait to be counted
    config = replace(
        config,
        robot=str(folder / "robot.yaml"),
        policy=str(folder / "policy"),
        inference_delay_ms=CAMERAS_DELAY_MS,
        log_dir=folder,
        control_rate_hz=CONTROL_RATE_HZ,
        task=camera_policy.TASK,
        robot_node="control_cameras",
    )
    with running_world(config, _CameraProbe) as world, _idle_ticker(world):
        world.start()
        _wait_for_ticker(world.client)
        operator = Operator(world)
        span_s = min(seconds, MAX_CAMERAS_S)
        print(f"the policy drives for {span_s:g} s with three cameras of 640x480 at {CAMERA_RATE_HZ} Hz", flush=True)
        driven = operator.driven(operator.drive_for(span_s, lambda: None))
        return rows.camera_rows(driven, world.client.frames_ns, world.client.idle, operator.num_drops, robot)


@contextmanager
def _idle_ticker(world: DemoWorld[ControlProbe]) -> Iterator[None]:
    """The yardstick runs beside the world, at its rate."""
    config, rate_hz = world.config, world.client.robot.control_rate_hz
    with Processes(config.log_dir) as idle:
        idle.start_node("control_ticker", {"robot": config.robot, "control_rate_hz": rate_hz})
        yield


def _wait_for_ticker(probe: ControlProbe) -> None:
    if not probe.wait_until(lambda: bool(probe.idle), START_TIMEOUT_S):
        raise ValueError("control_ticker never started; see its log")


class _CameraProbe(ControlProbe):
    """Counts images, too, as the policy node gets them; none of them is decoded."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self.frames_ns: dict[str, list[int]] = {camera.name: [] for camera in robot.cameras}
        for camera in robot.cameras:
            self.create_subscription(Image, camera.topic, partial(self._on_frame, camera.name), WATCH, raw=True)

    def _on_frame(self, camera: str, data: bytes, info: dict[str, Any]) -> None:
        self.frames_ns[camera].append(info["received_timestamp"])


class _Bench(Operator):
    def run(self, seconds: float) -> BenchRun:
        self._world.start()
        if not self._probe.wait_until(lambda: self._probe.count_subscribers(topics.TELEOP.name) > 0, PATIENCE_S):
            raise ValueError(f"policy_node does not listen to '{topics.TELEOP}'; see its log")
        _wait_for_ticker(self._probe)
        strategy = self._world.config.strategy
        print(f"the policy drives for {seconds:g} s by strategy {strategy}", flush=True)
        drives = self.drive_for(seconds, self.new_scene, 0 if strategy == "latest" else NUM_SWITCHES)
        hands_ns = self._take_over(round(min(max(seconds, MIN_TAKEOVERS), MAX_TAKEOVERS)))
        killed = self._kill_model()
        back = self._restart_model()
        self._world.lead(DEACTIVATE)
        self._world.processes.stop()  # nothing runs any more but the idle ticker
        rest = _wait(min(seconds, MAX_REST_S))
        return BenchRun(
            driven=self.driven(drives),
            scenes_ns=self.scenes_ns,
            hands_ns=hands_ns,
            killed=killed,
            back=back,
            rest=rest,
            idle=self._probe.idle,
            num_drops=self.num_drops,
        )

    def _take_over(self, count: int) -> list[int]:
        """A human takes over again and again, and gives back at once; when, ns."""
        print(f"a human takes over {count} times", flush=True)
        robot = self._probe.robot
        middle = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
        hands_ns = []
        for i in range(count):
            if i % TAKEOVERS_PER_SCENE == 0:
                self.new_scene()
            self.engage()
            self.drive_a_little()
            # Towards the middle of every joint's range: never outside.
            positions = self._probe.commanded.positions[0]
            nudge = NUDGE_RAD * np.sign(middle - positions)
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
        if not self._probe.wait_until(lambda: self._probe.model_ready_ns > restart_ns, START_TIMEOUT_S):
            raise ValueError(f"model_node never came back: {self._world.processes.last_line('model_node')}")
        back = _wait(HOLD_WATCH_S)
        self.engage()
        self.hold()
        return back


def _wait(seconds: float) -> Span:
    start_ns = time.time_ns()
    time.sleep(seconds)
    return Span(start_ns, time.time_ns())
