"""``vla_ros demo``: the simulated arm and both nodes as separate processes, episode after episode, scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_ros import topics
from vla_ros.demo.client import DEACTIVATE, DemoClient
from vla_ros.demo.pictures import SheetRow, write_contact_sheet, write_joint_plot
from vla_ros.demo.stats import ControlStats, Percentiles, Recording, control_stats, percentiles
from vla_ros.demo.world import DemoWorld, WorldConfig, running_world
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file
from vla_ros.sim.messages import EpisodeStatus
from vla_ros.sim.scene import COLORS
from vla_ros.types import Mode

EPISODE_TIMEOUT_S = 60.0
"""The simulation ends an episode after 8 s of its own time, which may run slower than ours."""


@dataclass(frozen=True)
class DemoConfig:
    """``num_episodes`` scenes from the world's seed on; with ``swap_targets`` every block of each scene is named in
    turn. Pictures go to ``out_dir``."""

    world: WorldConfig
    num_episodes: int
    swap_targets: bool
    out_dir: Path


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured; the control figures count while the policy drove."""

    episodes: tuple[EpisodeStatus, ...]
    control: ControlStats
    inference_ms: Percentiles
    observation_age_ms: Percentiles

    @property
    def num_good(self) -> int:
        return sum(episode.is_success for episode in self.episodes)

    @property
    def success_rate(self) -> float:
        return round(self.num_good / len(self.episodes), 4)

    @property
    def scenes(self) -> dict[int, list[EpisodeStatus]]:
        """The episodes of each scene, by its seed."""
        seeds = dict.fromkeys(episode.seed for episode in self.episodes)
        return {seed: [episode for episode in self.episodes if episode.seed == seed] for seed in seeds}


def run_demo(config: DemoConfig) -> DemoReport:
    """Run and print it all.

    Raises ValueError, with its last log line, where a node ends, cannot start or does not answer.
    """
    robot = load_robot(robot_file(config.world.robot))
    config.out_dir.mkdir(parents=True, exist_ok=True)
    with running_world(config.world, robot, DemoClient) as world:
        return _Demo(config, robot, world).run()


class _Demo:
    def __init__(self, config: DemoConfig, robot: RobotConfig, world: DemoWorld[DemoClient]) -> None:
        self._config = config
        self._robot = robot
        self._world = world
        self._client = world.client
        self._episodes: list[EpisodeStatus] = []
        self._recordings: list[Recording] = []

    def run(self) -> DemoReport:
        self._world.start()
        targets = COLORS if self._config.swap_targets else (None,)
        first = self._config.world.seed
        jobs = [(seed, target) for seed in range(first, first + self._config.num_episodes) for target in targets]
        for number, (seed, target) in enumerate(jobs, 1):
            self._episode(f"{number:>{len(str(len(jobs)))}}/{len(jobs)}", seed, target)
        self._world.lead(DEACTIVATE)
        report = DemoReport(
            episodes=tuple(self._episodes),
            control=control_stats(self._recordings),
            inference_ms=percentiles(value for recording in self._recordings for value in recording.inference_ms),
            observation_age_ms=percentiles(value for rec in self._recordings for value in rec.observation_age_ms),
        )
        self._print_summary(report)
        self._write_pictures(report)
        return report

    def _episode(self, number: str, seed: int, target: str | None) -> None:
        client = self._client
        recording = self._world.new_scene(seed, target)
        self._world.engage()
        is_over = client.wait_until(lambda: client.status.status != "running", EPISODE_TIMEOUT_S)
        status, mode = client.status, client.mode
        note = (
            "" if mode == Mode.POLICY else f"  (policy_node went to {self._world.processes.last_line('policy_node')})"
        )
        client.trigger(topics.HOLD.name)
        client.end_recording()
        if not is_over:
            raise ValueError(f"sim_node did not end episode {seed} within {EPISODE_TIMEOUT_S:g} s; see its log")
        views = recording.views
        recording.views = [views[0], views[len(views) // 2], views[-1]] if views else []
        self._episodes.append(status)
        self._recordings.append(recording)
        print(f"{number}  {status.status:<11}  {status.elapsed_s:4.1f} s  {status.instruction}{note}", flush=True)

    def _print_summary(self, report: DemoReport) -> None:
        control, inference, age = report.control, report.inference_ms, report.observation_age_ms
        print()
        if self._config.swap_targets:
            for seed, episodes in report.scenes.items():
                print(f"scene {seed}: {', '.join(f'{e.target} {e.status}' for e in episodes)}")
        print(f"success          {report.num_good} of {len(report.episodes)} ({report.success_rate:.0%})")
        periods = f"{control.period_ms_p50} ms p50, {control.period_ms_p99} p99, {control.period_ms_max} max"
        _print_measured("control", control.rate_hz, f"{control.rate_hz} Hz; period {periods}")
        _print_measured("inference", inference.p50, f"{inference.p50} ms p50, {inference.p99} p99")
        _print_measured("observation age", age.p50, f"{age.p50} ms p50, {age.p99} p99")

    def _write_pictures(self, report: DemoReport) -> None:
        sheet, plot = self._config.out_dir / "contact_sheet.png", self._config.out_dir / "joints.png"
        both = list(zip(report.episodes, self._recordings, strict=True))
        rows = [
            SheetRow(status.instruction, f"{status.outcome}, {status.elapsed_s:.1f} s", status.is_success, rec.views)
            for status, rec in both
        ]
        # With swapped targets, one line of the sheet is one scene.
        num_columns = len(COLORS) if self._config.swap_targets else 2 if len(rows) <= 12 else 5
        title = f"{report.num_good} of {len(rows)} instructions followed"
        write_contact_sheet(sheet, title, rows, num_columns)
        print(f"pictures         {sheet}")
        episode, longest = max(both, key=lambda pair: len(pair[1].states))
        if longest.commands and longest.states:
            title = f"Joints, commanded and measured: “{episode.instruction}”, {episode.outcome}"
            write_joint_plot(plot, title, self._robot.joint_names, longest)
            print(f"                 {plot}")


def report_json(report: DemoReport, *, by_scene: bool) -> dict[str, Any]:
    """The report for ``--json``; ``by_scene`` adds each scene's outcomes by the block that was named."""
    values = {
        "success_rate": report.success_rate,
        "episodes": [
            {"seed": e.seed, "instruction": e.instruction, "success": e.is_success, "seconds": e.elapsed_s}
            for e in report.episodes
        ],
        "control": asdict(report.control),
        "inference_ms": asdict(report.inference_ms),
        "observation_age_ms": asdict(report.observation_age_ms),
    }
    if by_scene:
        values["scenes"] = [
            {"seed": seed, "success": {e.target: e.is_success for e in episodes}}
            for seed, episodes in report.scenes.items()
        ]
    return values


def _print_measured(what: str, value: float | None, line: str) -> None:
    print(f"{what:<17}{'not measured' if value is None else line}")
