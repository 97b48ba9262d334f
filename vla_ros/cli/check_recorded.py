"""``vla_ros check DATA --robot FILE``: recordings as a training would take them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from vla_ros.check.finding import Finding
    from vla_ros.check.recorded.judge import TrainingNeeds
    from vla_ros.check.recorded.read import FoundRecordings
    from vla_ros.robot import RobotConfig
    from vla_ros.training.config import SetConfig
    from vla_ros.training.derive import Wanted
    from vla_ros.training.episodes import FrameRule

DEFAULT_HORIZON, DEFAULT_DT_S = 1, 0.1
"""Where the policy is none for this robot: all else is looked at all the same."""


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("of recordings: bags, folders of them, LeRobot data sets (v3)")
    data.add_argument("--robot", metavar="FILE", help="robot file of the recordings, or the name of a packaged one")
    meaning = "what the numbers of states and actions mean, as for vla_ros train"
    data.add_argument("--space", metavar="PRESET|FILE", help=meaning)
    data.add_argument("--data-space", metavar="PRESET|FILE", help="the same of the data sets alone")
    which = "which of the robot's cameras one of the sets is"
    data.add_argument("--camera", action="append", metavar="FEATURE=NAME", help=which)


def check_recordings(args: argparse.Namespace) -> tuple[str, Sequence[Finding]]:
    """The page's title and what it says. Raises ValueError for arguments that can't be used."""
    from tqdm import tqdm

    from vla_ros.check.recorded.judge import judge_recordings
    from vla_ros.check.recorded.read import find_recordings, look_at
    from vla_ros.recordings.description import load_robot_of
    from vla_ros.share import robot_file
    from vla_ros.training.weights import paths_of

    for option, value in (("--seconds", args.seconds), ("--use-sim-time", args.use_sim_time or None)):
        if value is not None:
            raise ValueError(f"{option} with recordings; expected a live robot: leave it out")
    path = robot_file(args.robot)
    found = find_recordings([path.expanduser() for path in paths_of(args.subject)])
    robot = load_robot_of(path, found.bags, args.namespace)
    needs, rule = _needs(_wanted(args, path), robot)
    rule = replace(rule, namespace=args.namespace, episodes=_episodes(found, args.namespace))
    cameras = {camera.name: camera for camera in robot.cameras}
    robot = replace(robot, cameras=tuple(cameras[name] for name in needs.camera_names))
    sources = [*found.bags, *_sets(args, found)]
    with tqdm(sources, unit="recording", leave=False, dynamic_ncols=True, disable=None) as bar:
        seen = [look_at(source, robot, rule) for source in bar]
    title = f"{', '.join(args.subject[:5])}{' ...' * (len(args.subject) > 5)} for {robot.name} ({path})"
    return title, judge_recordings(robot, needs, seen, found.others)


def _wanted(args: argparse.Namespace, robot: Path) -> Wanted:
    """As ``vla_ros train`` has it: a directory is what to start from."""
    from vla_ros.training.derive import Wanted

    is_folder = args.policy is not None and Path(args.policy).expanduser().is_dir()
    start_from = str(Path(args.policy).expanduser()) if is_folder else None
    policy = None if is_folder else args.policy
    return Wanted(robot, (), Path(), policy=policy, start_from=start_from, space=args.space)


def _needs(wanted: Wanted, robot: RobotConfig) -> tuple[TrainingNeeds, FrameRule]:
    """What a training reads of recordings; where the policy is none for this robot that is said on the page."""
    from vla_ros.check.recorded.judge import TrainingNeeds
    from vla_ros.training.derive import DEFAULT_POLICY, Misfit, find_data
    from vla_ros.training.episodes import FrameRule

    name = wanted.policy or (Path(wanted.start_from).name if wanted.start_from else DEFAULT_POLICY)
    horizon, dt_s, offset, cameras, misfit = DEFAULT_HORIZON, DEFAULT_DT_S, 1.0, robot.camera_names, ""
    try:
        data = find_data(wanted, robot)
    except Misfit as error:
        misfit = str(error)
    else:
        horizon, dt_s, offset = data.action_horizon, data.chunk_dt_s, data.action_offset
        cameras = tuple(dict.fromkeys(slot.camera for slot in data.slots if slot.camera is not None))
    return TrainingNeeds(name, cameras, horizon, dt_s, misfit), FrameRule(horizon, dt_s, offset, _as_it_is)


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def _sets(args: argparse.Namespace, found: FoundRecordings) -> list[SetConfig]:
    from vla_ros.cli.data_sets import camera_pairs
    from vla_ros.training.config import SetConfig

    space, cameras = args.data_space or args.space or "", camera_pairs(args.camera)
    return [SetConfig(str(path), space, cameras) for path in found.sets]


def _episodes(found: FoundRecordings, namespace: str) -> str:
    from vla_ros.recordings.feed import has_markers

    return "marker" if has_markers(found.bags, namespace) else "task"
