"""``vla_ros bench --control``: what the control promises, measured on the real nodes in the demo's world."""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vla_ros.bench.control_table import Row
from vla_ros.nodes.control_probe import ControlProbe, now_ns
from vla_ros.nodes.control_rows import Drive, Observed, Span, control_rows
from vla_ros.nodes.demo_client import DEACTIVATE
from vla_ros.nodes.demo_world import START_TIMEOUT_S, DemoWorld, WorldConfig, running_world
from vla_ros.nodes.ticker import Ticker
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file

ROBOT = "tabletop"
SCENE_S = 4.0
"""Before long the arm rests on its block, where a policy that drives on shows nothing."""
MIN_TAKEOVERS, MAX_TAKEOVERS = 2, 20
TAKEOVERS_PER_SCENE = 4
DRIVE_S = (0.3, 0.7)
"""How long the policy drives before a hand takes over, or the model is killed, s."""
TELEOP_S = 0.15
NUDGE_RAD = 0.05
PATIENCE_S, MODE_PATIENCE_S = 5.0, 0.5
MAX_TRIES = 5
HOLD_WATCH_S = 2.0
REALTIME_PRIORITY = 10
"""The policy node's own, so that the idle ticker is treated as its ticker is."""
GIL_SWITCH_INTERVAL_S = 0.0005
CLOCK_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ControlBenchConfig:
    """The policy drives for ``seconds`` in all, in scenes from seed 0 on, commanded at ``control_rate_hz`` (0: the
    robot file's); logs go to ``log_dir``."""

    seconds: float
    policy: str
    strategy: str
    inference_delay_ms: float
    control_rate_hz: float
    log_dir: Path


def run_control_bench(config: ControlBenchConfig) -> list[Row]:
    """Run it all and say what is going on. Raises ValueError where a node ends, cannot start or does not answer."""
    robot = load_robot(robot_file(ROBOT))
    robot = replace(robot, control_rate_hz=config.control_rate_hz or robot.control_rate_hz)
    world_config = WorldConfig(
        robot=ROBOT,
        policy=config.policy,
        strategy=config.strategy,
        inference_delay_ms=config.inference_delay_ms,
        seed=0,
        view=False,
        log_dir=config.log_dir,
        control_rate_hz=robot.control_rate_hz,
    )
    config.log_dir.mkdir(parents=True, exist_ok=True)
    sys.setswitchinterval(GIL_SWITCH_INTERVAL_S)  # or what arrives here would delay the idle ticker
    with running_world(world_config, robot, ControlProbe) as world:
        observed = _Bench(config, robot, world).run()
    return control_rows(observed, robot, config.strategy)


class _Bench:
    def __init__(self, config: ControlBenchConfig, robot: RobotConfig, world: DemoWorld[ControlProbe]) -> None:
        self._config = config
        self._robot = robot
        self._world = world
        self._probe = world.client
        self._random = random.Random(0)
        self._seed = 0
        self._drives: list[Drive] = []
        self._hands_ns: list[int] = []
        self._idle_ns: list[int] = []
        self._processor_s = 0.0
        self._num_drops = 0

    def run(self) -> Observed:
        self._world.start()
        if not self._probe.wait_until(lambda: self._probe.is_hand_heard, PATIENCE_S):
            raise ValueError("policy_node does not listen to 'vla_policy/teleop'; see its log")
        self._drive()
        self._take_over()
        killed = self._kill_model()
        back = self._restart_model()
        self._world.transition(DEACTIVATE, "deactivated")
        return Observed(
            commands=self._probe.commands(),
            chunks=self._probe.chunks(),
            scenes_ns=self._probe.scenes_ns,
            drives=self._drives,
            hands_ns=self._hands_ns,
            idle_ns=self._idle_ns,
            killed=killed,
            back=back,
            processor_s=self._processor_s,
            num_drops=self._num_drops,
        )

    def _drive(self) -> None:
        """The policy drives, scene after scene, while an idle ticker runs beside it."""
        print(f"the policy drives for {self._config.seconds:g} s", flush=True)
        pid = self._world.processes.pid("policy_node")
        ticker = Ticker(
            round(1e9 / self._robot.control_rate_hz),
            lambda deadline_ns: self._idle_ns.append(now_ns()),
            REALTIME_PRIORITY,
        )
        ticker.start()
        rest_s = self._config.seconds
        while rest_s > 0:
            self._new_scene()
            engaged_ns = self._engage()
            span_s = min(rest_s, SCENE_S)
            start_ns, start_cpu_s = now_ns(), _processor_s(pid)
            has_stopped = self._probe.wait_until(lambda: self._probe.mode != "POLICY", span_s)
            self._drives.append(Drive(engaged_ns, Span(start_ns, now_ns())))
            self._processor_s += _processor_s(pid) - start_cpu_s
            if has_stopped:
                self._tell_drop()
            self._hold()
            rest_s -= span_s
        ticker.stop()

    def _take_over(self) -> None:
        """A hand takes over again and again, and gives back at once."""
        count = round(min(max(self._config.seconds, MIN_TAKEOVERS), MAX_TAKEOVERS))
        print(f"a hand takes over {count} times", flush=True)
        lower, upper = self._robot.joint_values("lower"), self._robot.joint_values("upper")
        for i in range(count):
            if i % TAKEOVERS_PER_SCENE == 0:
                self._new_scene()
            self._engage()
            time.sleep(self._random.uniform(*DRIVE_S))
            # Towards the middle of every joint's range: never outside.
            positions = self._probe.last_positions
            nudge = NUDGE_RAD * np.sign((lower + upper) / 2 - positions)
            self._hands_ns.append(self._probe.teleop(positions + nudge))
            self._probe.wait_until(lambda: self._probe.mode == "TELEOP", 1.0)
            time.sleep(TELEOP_S)
        self._hold()

    def _kill_model(self) -> Drive:
        """The model node dies while the policy drives: until it stands still, from the kill on."""
        print("kill -9 of the model node, then it starts again", flush=True)
        self._new_scene()
        while True:
            engaged_ns = self._engage()
            time.sleep(self._random.uniform(*DRIVE_S))
            if self._probe.mode == "POLICY":
                break
            self._tell_drop()
        kill_ns = now_ns()
        self._world.processes.kill("model_node")
        self._probe.wait_until(lambda: self._probe.mode == "HOLD" and self._probe.has_stopped, PATIENCE_S)
        return Drive(engaged_ns, Span(kill_ns, now_ns()))

    def _restart_model(self) -> Span:
        """The model node comes back and must be engaged again: from when it is ready until then."""
        restart_ns = now_ns()
        self._world.start_model()
        if not self._probe.wait_until(lambda: self._probe.model_works_since(restart_ns), START_TIMEOUT_S):
            raise ValueError(f"model_node never came back: {self._world.processes.last_line('model_node')}")
        back_ns = now_ns()
        time.sleep(HOLD_WATCH_S)
        back = Span(back_ns, now_ns())
        self._engage()
        self._hold()
        return back

    def _new_scene(self) -> None:
        self._world.new_scene(self._seed)
        self._probe.end_recording()
        self._seed += 1

    def _engage(self) -> int:
        """The policy drives, and a chunk of its own is followed; returns when it was asked to, ns. On a busy machine a
        watchdog may stop it before its first chunk: then once more."""
        probe = self._probe
        for _ in range(MAX_TRIES):
            num_before, engaged_ns = probe.num_chunks, now_ns()
            self._world.engage()
            probe.wait_until(lambda: probe.mode == "POLICY", MODE_PATIENCE_S)
            probe.wait_until(lambda: probe.num_chunks > num_before or probe.mode != "POLICY", PATIENCE_S)
            if probe.num_chunks > num_before and probe.mode == "POLICY":
                return engaged_ns
            self._tell_drop()
        raise ValueError(f"the policy did not get to drive, {MAX_TRIES} times; policy_node went to {self._last_line()}")

    def _tell_drop(self) -> None:
        self._num_drops += 1
        print(f"  policy_node went to {self._last_line()}", flush=True)

    def _last_line(self) -> str:
        return self._world.processes.last_line("policy_node")

    def _hold(self) -> None:
        self._probe.trigger("vla_policy/hold")
        self._probe.wait_until(lambda: self._probe.mode == "HOLD" and self._probe.has_stopped, PATIENCE_S)


def _processor_s(pid: int) -> float:
    """What a process has used of the processor so far, in user and in kernel mode, s."""
    # The name, in parentheses, may hold blanks; after it user and kernel time are fields 12 and 13.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * CLOCK_TICK_S
