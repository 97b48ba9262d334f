"""``vla_ros demo``: the simulated arm and both nodes as separate processes, episode after episode, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import topics
from vla_ros.demo.client import DEACTIVATE, DemoClient
from vla_ros.demo.pictures import write_contact_sheet, write_film, write_joint_plot
from vla_ros.demo.stats import ControlStats, Percentiles, Recording, control_stats, percentiles
from vla_ros.demo.world import DemoWorld, WorldConfig, running_world
from vla_ros.sim.scene import COLORS, EpisodeStatus
from vla_ros.types import Mode

FILM_EPISODES = 6
EPISODE_TIMEOUT_S = 60.0
"""The simulation ends an episode after 8 s of its own time, which may run slower than ours."""


@dataclass(frozen=True)
class DemoReport:
    """How each episode ended, and what was measured while the policy drove."""

    episodes: Sequence[EpisodeStatus]
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
        return {seed: list(episodes) for seed, episodes in groupby(self.episodes, attrgetter("seed"))}


def run_demo(
    config: WorldConfig, num_episodes: int, swap_targets: bool, out_dir: Path, film: Path | None = None
) -> DemoReport:
    """Run and print it all: ``num_episodes`` scenes from the world's seed on; with ``swap_targets`` every block of each
    scene is named in turn. Pictures go to ``out_dir``, a moving one of the first ``FILM_EPISODES`` to ``film``.

    Raises ValueError, with its last log line, where a node ends, cannot start or does not answer.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    targets = COLORS if swap_targets else (None,)
    seeds = range(config.seed, config.seed + num_episodes)
    jobs = [(seed, target) for seed in seeds for target in targets]
    episodes, recordings = [], []
    views: list[list[np.ndarray]] = []
    with running_world(config, DemoClient) as world:
        world.start()
        for number, (seed, target) in enumerate(jobs, 1):
            recording = world.new_scene(seed, target)
            episodes.append(_run_episode(f"{number:>{len(str(len(jobs)))}}/{len(jobs)}", world, seed))
            if film is not None and len(views) < FILM_EPISODES:
                views.append(recording.views)
            recording.keep_three_views()
            recordings.append(recording)
        world.lead(DEACTIVATE)
        report = DemoReport(
            episodes,
            control_stats(recordings),
            percentiles(value for recording in recordings for value in recording.inference_ms),
            percentiles(value for recording in recordings for value in recording.observation_age_ms),
        )
        _print_summary(report, swap_targets)
        _write_pictures(out_dir, report, recordings, world.client.robot.joint_limits)
        if film is not None:
            write_film(film, episodes[: len(views)], views, config.view_hz)
            print(f"                 {film}")
    return report


def _run_episode(number: str, world: DemoWorld[DemoClient], seed: int) -> EpisodeStatus:
    """The policy drives until the scene's episode is over."""
    client = world.client
    world.engage()
    is_over = client.wait_until(lambda: client.status.status != "running", EPISODE_TIMEOUT_S)
    status, mode = client.status, client.mode
    note = "" if mode == Mode.POLICY else f"  (policy_node went to {world.processes.last_line('policy_node')})"
    client.trigger(topics.HOLD.name)
    client.end_recording()
    if not is_over:
        raise ValueError(f"sim_node did not end episode {seed} within {EPISODE_TIMEOUT_S:g} s; see its log")
    print(f"{number}  {status.status:<11}  {status.elapsed_s:4.1f} s  {status.instruction}{note}", flush=True)
    return status


def _print_summary(report: DemoReport, by_scene: bool) -> None:
    control, inference, age = report.control, report.inference_ms, report.observation_age_ms
    print()
    if by_scene:
        for seed, episodes in report.scenes.items():
            print(f"scene {seed}: {', '.join(f'{e.target} {e.status}' for e in episodes)}")
    print(f"success          {report.num_good} of {len(report.episodes)} ({report.success_rate:.0%})")
    periods = f"{control.period_ms_p50} ms p50, {control.period_ms_p99} p99, {control.period_ms_max} max"
    for what, value, line in (
        ("control", control.rate_hz, f"{control.rate_hz} Hz; period {periods}"),
        ("inference", inference.p50, f"{inference.p50} ms p50, {inference.p99} p99"),
        ("observation age", age.p50, f"{age.p50} ms p50, {age.p99} p99"),
    ):
        print(f"{what:<17}{'not measured' if value is None else line}")


def _write_pictures(
    out_dir: Path, report: DemoReport, recordings: Sequence[Recording], limits: Mapping[str, tuple[float, float]]
) -> None:
    sheet, plot = out_dir / "contact_sheet.png", out_dir / "joints.png"
    # With swapped targets, one line of the sheet is one scene.
    num_columns = len(COLORS) if len(report.scenes) < len(recordings) else 2 if len(recordings) <= 12 else 5
    title = f"{report.num_good} of {len(recordings)} instructions followed"
    write_contact_sheet(sheet, title, report.episodes, recordings, num_columns)
    print(f"pictures         {sheet}")
    episode, longest = max(zip(report.episodes, recordings, strict=True), key=lambda pair: len(pair[1].states))
    if longest.commands and longest.states:
        title = f"Joints, commanded and measured: “{episode.instruction}”, {episode.outcome}"
        write_joint_plot(plot, title, limits, longest)
        print(f"                 {plot}")


def report_json(report: DemoReport, *, by_scene: bool) -> dict[str, Any]:
    """The report for ``--json``; ``by_scene`` adds each scene's outcomes by the block that was named."""
    values = {
        "success_rate": report.success_rate,
        "episodes": [
            {"seed": e.seed, "instruction": e.instruction, "success": e.is_success, "seconds": e.elapsed_s}
            for e in report.episodes
        ],
        **{name: asdict(getattr(report, name)) for name in ("control", "inference_ms", "observation_age_ms")},
    }
    if by_scene:
        values["scenes"] = [
            {"seed": seed, "success": {e.target: e.is_success for e in episodes}}
            for seed, episodes in report.scenes.items()
        ]
    return values
