"""``vla_ros demo``: the simulated arm and both nodes as separate processes, episode after episode, scored."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from vla_ros.nodes.dds import use_default_dds_profile
from vla_ros.nodes.demo_client import ACTIVATE, CONFIGURE, DEACTIVATE, POLICY, DemoClient, EpisodeStatus, Recording
from vla_ros.nodes.demo_pictures import JointTraces, SheetRow, write_contact_sheet, write_joint_plot
from vla_ros.nodes.demo_processes import INTERRUPTIONS, Processes
from vla_ros.nodes.demo_stats import ControlStats, Percentiles, control_stats, percentiles
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import policy_dir, robot_file
from vla_ros.sim.scene import COLORS

START_TIMEOUT_S = 120.0
TRANSITION_TIMEOUT_S = 10.0
ENGAGE_TIMEOUT_S = 5.0
EPISODE_TIMEOUT_S = 60.0
"""The simulation ends an episode after 8 s of its own time, which may run slower than ours."""
RETRY_S = 0.05
FIRST_FRAME_S = 0.06
"""So long after its activation the policy node has seen a frame of each camera; asking sooner only fills its log."""


@dataclass(frozen=True)
class DemoConfig:
    """``num_episodes`` scenes from ``seed`` on; with ``swap_targets`` every block of each scene is named in turn.
    The model is made slower by ``inference_delay_ms``."""

    num_episodes: int
    seed: int
    swap_targets: bool
    policy: str
    robot: str
    strategy: str
    inference_delay_ms: float
    out_dir: Path


@dataclass(frozen=True)
class EpisodeReport:
    """One episode; ``outcome`` is the simulation's: success, wrong_block or timeout."""

    seed: int
    instruction: str
    target: str
    success: bool
    outcome: str
    seconds: float


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured; the control figures count while the policy drove."""

    success_rate: float
    episodes: tuple[EpisodeReport, ...]
    control: ControlStats
    inference_ms: Percentiles
    observation_age_ms: Percentiles


def run_demo(config: DemoConfig) -> DemoReport:
    """Run and print it all; pictures and logs go to ``config.out_dir``.

    Raises ValueError, with its last log line, where a node ends, cannot start or does not answer.
    """
    robot = load_robot(robot_file(config.robot))
    policy = str(policy_dir(config.policy))
    config.out_dir.mkdir(parents=True, exist_ok=True)
    _use_own_domain()
    use_default_dds_profile()
    for number in INTERRUPTIONS:
        signal.signal(number, _interrupt)
    with Processes(config.out_dir / "logs") as processes:
        processes.start_node("sim_node", {"robot": config.robot, "seed": config.seed, "view": True})
        chunks = {"policy": policy, "strategy": config.strategy}
        processes.start_node("model_node", {**chunks, "inference_delay_ms": config.inference_delay_ms})
        processes.start_node("policy_node", {**chunks, "robot": config.robot})
        # Ctrl-C belongs to this program, which has children to end.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        client = DemoClient(robot, processes.check)
        executor = SingleThreadedExecutor()
        executor.add_node(client)
        spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
        spinner.start()
        try:
            return _Demo(config, robot, client, processes).run()
        finally:
            rclpy.shutdown()
            spinner.join(timeout=2.0)


class _Demo:
    def __init__(self, config: DemoConfig, robot: RobotConfig, client: DemoClient, processes: Processes) -> None:
        self._config = config
        self._robot = robot
        self._client = client
        self._processes = processes
        self._reports: list[EpisodeReport] = []
        self._recordings: list[Recording] = []
        self._rows: list[SheetRow] = []

    def run(self) -> DemoReport:
        self._start()
        targets = COLORS if self._config.swap_targets else (None,)
        seeds = range(self._config.seed, self._config.seed + self._config.num_episodes)
        jobs = [(seed, target) for seed in seeds for target in targets]
        for number, (seed, target) in enumerate(jobs, 1):
            self._episode(f"{number:>{len(str(len(jobs)))}}/{len(jobs)}", seed, target)
        self._client.change_state("vla_policy", DEACTIVATE, TRANSITION_TIMEOUT_S)
        report = self._report()
        self._print_summary(report)
        self._write_pictures(report)
        return report

    def _start(self) -> None:
        """Bring every node up, and let the policy drive once, so that no episode pays for first times."""
        domain, logs = os.environ["ROS_DOMAIN_ID"], self._config.out_dir / "logs"
        print(f"starting sim_node, model_node and policy_node in ROS domain {domain}; logs in {logs}", flush=True)
        started = time.monotonic()
        for node, process in (("vla_model", "model_node"), ("vla_policy", "policy_node")):
            for transition, what in ((CONFIGURE, "configured"), (ACTIVATE, "activated")):
                if not self._client.change_state(node, transition, START_TIMEOUT_S):
                    raise ValueError(f"{process} could not be {what}: {self._processes.last_line(process)}")
        if not self._client.wait_until(lambda: self._client.status is not None, START_TIMEOUT_S):
            raise ValueError(f"sim_node never started: {self._processes.last_line('sim_node')}")
        self._engage(START_TIMEOUT_S)
        self._client.wait_until(lambda: self._client.has_chunk, ENGAGE_TIMEOUT_S)
        self._client.trigger("vla_policy/hold")
        print(f"nodes are up after {time.monotonic() - started:.1f} s", flush=True)

    def _episode(self, number: str, seed: int, target: str | None) -> None:
        client = self._client
        # A reset teleports the arm, which no controller may see: the policy node forgets and starts anew.
        self._transition(DEACTIVATE, "deactivated")
        recording = client.start_episode(seed, target)
        self._transition(ACTIVATE, "activated")
        time.sleep(FIRST_FRAME_S)
        self._engage(ENGAGE_TIMEOUT_S)
        is_over = client.wait_until(lambda: client.status.status != "running", EPISODE_TIMEOUT_S)
        status, note = client.status, self._fallback_note()
        client.trigger("vla_policy/hold")
        client.end_recording()
        if not is_over:
            raise ValueError(f"sim_node did not end episode {seed} within {EPISODE_TIMEOUT_S:g} s; see its log")
        self._keep(status, recording)
        report = self._reports[-1]
        print(f"{number}  {report.outcome:<11}  {report.seconds:4.1f} s  {report.instruction}{note}", flush=True)

    def _fallback_note(self) -> str:
        if self._client.mode == POLICY:
            return ""
        return f"  (policy_node went to {self._processes.last_line('policy_node')})"

    def _keep(self, status: EpisodeStatus, recording: Recording) -> None:
        is_success = status.status == "success"
        report = EpisodeReport(
            status.seed, status.instruction, status.target, is_success, status.status, status.elapsed_s
        )
        self._reports.append(report)
        outcome = f"{status.status.replace('_', ' ')}, {status.elapsed_s:.1f} s"
        views = recording.views
        frames = (views[0], views[len(views) // 2], views[-1]) if views else ()
        self._rows.append(SheetRow(status.instruction, outcome, is_success, frames))
        recording.views = []
        self._recordings.append(recording)

    def _transition(self, transition: int, what: str) -> None:
        if not self._client.change_state("vla_policy", transition, TRANSITION_TIMEOUT_S):
            raise ValueError(f"policy_node could not be {what}: {self._processes.last_line('policy_node')}")

    def _engage(self, timeout_s: float) -> None:
        """Engage as soon as the policy node is ready to: fresh images, joints, the instruction, the model."""
        deadline = time.monotonic() + timeout_s
        while True:
            response = self._client.trigger("vla_policy/engage")
            if response.success:
                return
            if time.monotonic() > deadline:
                raise ValueError(f"policy_node refuses to engage after {timeout_s:g} s: {response.message}")
            self._processes.check()
            time.sleep(RETRY_S)

    def _report(self) -> DemoReport:
        drives = [recording.drive for recording in self._recordings]
        return DemoReport(
            success_rate=round(sum(report.success for report in self._reports) / len(self._reports), 4),
            episodes=tuple(self._reports),
            control=control_stats(drives),
            inference_ms=percentiles(value for drive in drives for value in drive.inference_ms),
            observation_age_ms=percentiles(value for drive in drives for value in drive.observation_age_ms),
        )

    def _print_summary(self, report: DemoReport) -> None:
        control, inference, age = report.control, report.inference_ms, report.observation_age_ms
        num_good = sum(episode.success for episode in report.episodes)
        print()
        if self._config.swap_targets:
            self._print_scenes(report)
        print(f"success          {num_good} of {len(report.episodes)} ({report.success_rate:.0%})")
        periods = f"{control.period_ms_p50} ms p50, {control.period_ms_p99} p99, {control.period_ms_max} max"
        _print_measured("control", control.rate_hz, f"{control.rate_hz} Hz; period {periods}")
        _print_measured("inference", inference.p50, f"{inference.p50} ms p50, {inference.p99} p99")
        _print_measured("observation age", age.p50, f"{age.p50} ms p50, {age.p99} p99")

    def _print_scenes(self, report: DemoReport) -> None:
        for seed in dict.fromkeys(episode.seed for episode in report.episodes):
            outcomes = ", ".join(f"{e.target} {e.outcome}" for e in report.episodes if e.seed == seed)
            print(f"scene {seed}: {outcomes}")

    def _write_pictures(self, report: DemoReport) -> None:
        num_good = sum(episode.success for episode in report.episodes)
        sheet, plot = self._config.out_dir / "contact_sheet.png", self._config.out_dir / "joints.png"
        # With swapped targets, one line of the sheet is one scene.
        num_columns = len(COLORS) if self._config.swap_targets else 2 if len(self._rows) <= 12 else 5
        title = f"{num_good} of {len(report.episodes)} instructions followed"
        write_contact_sheet(sheet, title, self._rows, num_columns)
        print(f"pictures         {sheet}")
        longest = max(range(len(self._recordings)), key=lambda i: len(self._recordings[i].states))
        recording, episode = self._recordings[longest], report.episodes[longest]
        if recording.commands and recording.states:
            title = f"Joints, commanded and measured: “{episode.instruction}”, {episode.outcome.replace('_', ' ')}"
            write_joint_plot(plot, title, self._robot.outputs[0].joints, _traces(recording))
            print(f"                 {plot}")


def report_json(report: DemoReport, *, by_scene: bool) -> dict[str, Any]:
    """The report for ``--json``; ``by_scene`` adds each scene's outcomes by the block that was named."""
    values = asdict(report)
    shown = ("seed", "instruction", "success", "seconds")
    values["episodes"] = [{key: episode[key] for key in shown} for episode in values["episodes"]]
    if by_scene:
        seeds = dict.fromkeys(episode.seed for episode in report.episodes)
        values["scenes"] = [
            {"seed": seed, "success": {e.target: e.success for e in report.episodes if e.seed == seed}}
            for seed in seeds
        ]
    return values


def _traces(recording: Recording) -> JointTraces:
    start_ns = recording.commands[0][0]
    return JointTraces(
        commanded_s=np.array([stamp_ns - start_ns for stamp_ns, _ in recording.commands]) * 1e-9,
        commanded=np.array([positions for _, positions in recording.commands]),
        measured_s=np.array([stamp_ns - start_ns for stamp_ns, _ in recording.states]) * 1e-9,
        measured=np.array([positions for _, positions in recording.states]),
    )


def _print_measured(what: str, value: float | None, line: str) -> None:
    print(f"{what:<17}{'not measured' if value is None else line}")


def _use_own_domain() -> None:
    """Keep to this machine, and to a ROS domain of its own unless the user has chosen one."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        pass
