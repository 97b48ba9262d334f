"""Folders of results of the two-joint robot's bags, and of a replay made of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import compare_helpers
import yaml
from runtime_helpers import ROBOT

from vla_ros.replay.baseline.provenance import replayed_values
from vla_ros.replay.fleet.folder import ResultsFolder, Run
from vla_ros.replay.fleet.plan import Plan, PlannedPolicy, installed_release
from vla_ros.replay.fleet.result import Result, Source, encode
from vla_ros.replay.fleet.run import FleetReport, Shard, replay_fleet, replay_here
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.strict import config_to_dict

SETTINGS = ReplaySettings(unknown_latency_ms=100.0)
ALL = Shard()


def results_of(
    folder: Path,
    bags: Sequence[Path | str],
    policies: tuple[str, ...] = ("0.1",),
    settings: ReplaySettings = SETTINGS,
    robot: RobotConfig = ROBOT,
) -> ResultsFolder:
    """``folder/results`` of a replay of ``bags`` with policies of these names and the robot of ``folder/robot.yaml``,
    which is written."""
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(config_to_dict(robot)))
    planned = tuple(PlannedPolicy(name, name, "d1ce57", False, ("front", "wrist"), {}) for name in policies)
    values = replayed_values(settings.stored(), load_robot(path), False)
    plan = Plan(str(Path.cwd()), planned, str(path), settings, values, "cpu", 1, installed_release())
    return ResultsFolder(folder / "results", Run(plan, tuple(map(str, bags))))


def fill(results: ResultsFolder, shard: Shard = ALL) -> FleetReport:
    return replay_fleet(results, shard, replay_here, lambda num: None)


def stored_result(folder: Path, pattern: str) -> tuple[Path, Callable[[], None]]:
    """The file of a results folder that ``pattern`` finds, and what merges the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tmp").mkdir()
    results = results_of(folder, ["/data/monday"])
    results.begin()
    chunks = [compare_helpers.chunk(compare_helpers.START_NS + k * compare_helpers.S // 2) for k in range(4)]
    made = compare_helpers.replay(chunks, policy="0.1", digest="d1ce57", events=(compare_helpers.event(1.0, "limit"),))
    (key,), (path,) = results.run.plan.keys, results.paths("/data/monday")
    result = Result(key, "/data/monday", Source((("monday.mcap", 1, 1),)), "d", "this one")
    path.write_bytes(encode(replace(result, replay=made)))
    (found,) = results.path.glob(pattern)

    def merge() -> None:
        ResultsFolder.find(results.path).merge("any")

    return found, merge
