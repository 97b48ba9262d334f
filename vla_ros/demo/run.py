"""``vla_ros demo``: the simulated arm and both nodes as separate processes, episode after episode, scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import topics
from vla_ros.demo.client import DEACTIVATE, DemoClient, EpisodeStatus, Recording
from vla_ros.demo.pictures import JointTraces, SheetRow, write_contact_sheet, write_joint_plot
from vla_ros.demo.stats import ControlStats, Percentiles, control_stats, percentiles
from vla_ros.demo.world import TRANSITION_TIMEOUT_S, DemoWorld, WorldConfig, running_world
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file
from vla_ros.sim.scene import COLORS
from vla_ros.types import Mode

EPISODE_TIMEOUT_S = 60.0
"""The simulation ends an episode after 8 s of its own time, which may run slower than ours."""


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
    world_config = WorldConfig(
        robot=config.robot,
        policy=config.policy,
        strategy=config.strategy,
        inference_delay_ms=config.inference_delay_ms,
        seed=config.seed,
        view=True,
        log_dir=config.out_dir / "logs",
    )
    config.out_dir.mkdir(parents=True, exist_ok=True)
    with running_world(world_config, robot, DemoClient) as world:
        return _Demo(config, robot, world).run()


class _Demo:
    def __init__(self, config: DemoConfig, robot: RobotConfig, world: DemoWorld[DemoClient]) -> None:
        self._config = config
        self._robot = robot
        self._world = world
        self._client = world.client
        self._processes = world.processes
        self._reports: list[EpisodeReport] = []
        self._recordings: list[Recording] = []
        self._rows: list[SheetRow] = []

    def run(self) -> DemoReport:
        self._world.start()
        targets = COLORS if self._config.swap_targets else (None,)
        seeds = range(self._config.seed, self._config.seed + self._config.num_episodes)
        jobs = [(seed, target) for seed in seeds for target in targets]
        for number, (seed, target) in enumerate(jobs, 1):
            self._episode(f"{number:>{len(str(len(jobs)))}}/{len(jobs)}", seed, target)
        self._client.change_state(topics.POLICY_NODE, DEACTIVATE, TRANSITION_TIMEOUT_S)
        report = self._report()
        self._print_summary(report)
        self._write_pictures(report)
        return report

    def _episode(self, number: str, seed: int, target: str | None) -> None:
        client = self._client
        recording = self._world.new_scene(seed, target)
        self._world.engage()
        is_over = client.wait_until(lambda: client.status.status != "running", EPISODE_TIMEOUT_S)
        status, note = client.status, self._fallback_note()
        client.trigger(topics.HOLD.name)
        client.end_recording()
        if not is_over:
            raise ValueError(f"sim_node did not end episode {seed} within {EPISODE_TIMEOUT_S:g} s; see its log")
        self._keep(status, recording)
        report = self._reports[-1]
        print(f"{number}  {report.outcome:<11}  {report.seconds:4.1f} s  {report.instruction}{note}", flush=True)

    def _fallback_note(self) -> str:
        if self._client.mode == Mode.POLICY:
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
            write_joint_plot(plot, title, self._robot.joint_names, _traces(recording))
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
        commanded_s=np.array([stamp_ns - start_ns for stamp_ns, _ in recording.commands]) / NS_PER_S,
        commanded=np.array([positions for _, positions in recording.commands]),
        measured_s=np.array([stamp_ns - start_ns for stamp_ns, _ in recording.states]) / NS_PER_S,
        measured=np.array([positions for _, positions in recording.states]),
    )


def _print_measured(what: str, value: float | None, line: str) -> None:
    print(f"{what:<17}{'not measured' if value is None else line}")
