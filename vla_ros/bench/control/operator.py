"""What the control bench makes the policy do in a world: engage, drive, hold."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vla_ros import topics
from vla_ros.bench.control.judge import Span
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.bench.control.rows import Drive, Driven
from vla_ros.demo.world import DemoWorld
from vla_ros.types import Mode

SCENE_S = 4.0
"""A little later the arm rests on its block, where a policy that drives on shows nothing."""
WAY_S = (0.3, 0.7)
"""How long the policy drives before a human takes over or the model is killed, s."""
MAX_EXTRA_S = 600.0
"""How much longer a model is waited for that is too slow for as many chunk switches as are wanted."""
PATIENCE_S, MODE_PATIENCE_S = 5.0, 0.5
MAX_TRIES = 5
CLOCK_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Operator:
    """Who leads the policy in one world; ``num_drops`` counts how often it fell to HOLD by itself, ``scenes_ns`` holds
    when each scene was set up: commands from before are of another pose."""

    def __init__(self, world: DemoWorld[ControlProbe]) -> None:
        self.num_drops = 0
        self.scenes_ns: list[int] = []
        self._world = world
        self._probe = world.client
        self._random = random.Random(0)

    def new_scene(self) -> None:
        """The simulation's next scene, from seed 0 on."""
        self.scenes_ns.append(self._world.new_scene(len(self.scenes_ns)).began_ns)
        self._probe.end_recording()

    def drive_for(self, seconds: float, set_up: Callable[[], None], num_switches: int = 0) -> list[Drive]:
        """The policy drives for so long, and on until there were so many chunk switches; ``set_up`` comes before each
        drive of a few seconds."""
        drives: list[Drive] = []
        rest_s, rest_switches = seconds, num_switches
        while rest_s > 0 or (rest_switches > 0 and rest_s > -MAX_EXTRA_S):
            set_up()
            num_before = self._probe.num_chunks
            span_s = min(rest_s, SCENE_S) if rest_s > 0 else SCENE_S
            drives.append(self.drive(span_s))
            rest_switches -= self._probe.num_chunks - num_before - 1
            rest_s -= span_s
        return drives

    def drive(self, span_s: float) -> Drive:
        """The policy drives for so long, or until it falls to HOLD."""
        pid = self._world.processes.pid("policy_node")
        engaged_ns = self.engage()
        start_ns, start_cpu_s = time.time_ns(), _cpu_s(pid)
        has_stopped = self._probe.wait_until(lambda: self._probe.mode != Mode.POLICY, span_s)
        drive = Drive(engaged_ns, Span(start_ns, time.time_ns()), _cpu_s(pid) - start_cpu_s)
        if has_stopped:
            self.report_drop()
        self.hold()
        return drive

    def driven(self, drives: Sequence[Drive]) -> Driven:
        """What has been heard of these drives, and of everything else so far."""
        config, probe = self._world.config, self._probe
        return Driven(config.strategy, config.inference_delay_ms, drives, probe.commands(), list(probe.chunks))

    def drive_a_little(self) -> None:
        """Let pass what the policy drives before something happens."""
        time.sleep(self._random.uniform(*WAY_S))

    def engage(self) -> int:
        """The policy drives, and a chunk of its own is followed; returns when it was asked to, ns. On a busy machine a
        watchdog may stop it before its first chunk: then once more."""
        probe = self._probe
        for _ in range(MAX_TRIES):
            num_before, engaged_ns = probe.num_chunks, time.time_ns()
            self._world.engage()
            probe.wait_until(lambda: probe.mode == Mode.POLICY, MODE_PATIENCE_S)
            probe.wait_until(lambda: probe.num_chunks > num_before or probe.mode != Mode.POLICY, PATIENCE_S)
            if probe.num_chunks > num_before and probe.mode == Mode.POLICY:
                return engaged_ns
            self.report_drop()
        raise ValueError(f"the policy did not get to drive, {MAX_TRIES} times; policy_node went to {self._last_line()}")

    def hold(self) -> None:
        """The arm stops."""
        self._probe.trigger(topics.HOLD.name)
        self._probe.wait_until(lambda: self._probe.mode == Mode.HOLD and self._probe.has_stopped, PATIENCE_S)

    def report_drop(self) -> None:
        """Count and print that the policy fell to HOLD."""
        self.num_drops += 1
        print(f"  policy_node went to {self._last_line()}", flush=True)

    def _last_line(self) -> str:
        return self._world.processes.last_line("policy_node")


def _cpu_s(pid: int) -> float:
    """CPU time that a process has used so far, in user and in kernel mode, s."""
    # The name, in parentheses, may hold blanks; after it user and kernel time are fields 12 and 13.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * CLOCK_TICK_S
