"""Bags to a LeRobot data set (v3), or such a set to bags; goes on where it was stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome, check_range
from vla_ros.strict import check_choice

if TYPE_CHECKING:
    from vla_ros.recordings.lerobot.from_bags import SetRule
    from vla_ros.robot import RobotConfig

EPISODES = ("task", "marker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="bags, storage files, or folders of them; or a set"
    )
    parser.add_argument("out", metavar="OUT", help="folder of the new set, or of the bags, one an episode")
    parser.add_argument("--to", required=True, metavar="KIND", help="lerobot (bags to a set) or mcap (a set to bags)")
    parser.add_argument("--robot", required=True, metavar="FILE", help="robot file, or the name of a packaged one")
    meaning = "what the set's numbers mean (default: as the set says, else joints in rad and m)"
    parser.add_argument("--space", metavar="PRESET|FILE", help=meaning)
    parser.add_argument(
        "--camera", action="append", metavar="FEATURE=NAME", help="which of the robot's cameras one of the set is"
    )
    parser.add_argument("--codec", default="av1", metavar="CODEC", help="av1 (default) or h264, which is faster")
    parser.add_argument("--fps", type=float, metavar="HZ", help="rows a second (default: as the first bag has them)")
    where = "what begins an episode: task or marker (default: marker where a bag has such)"
    parser.add_argument("--episodes", metavar="HOW", help=where)
    parser.add_argument("--namespace", default="", metavar="NS", help="namespace that the bags were recorded in")


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.recordings.description import load_robot_of
    from vla_ros.share import robot_file

    check_choice("--to", args.to, ("lerobot", "mcap"))
    robot = load_robot_of(robot_file(args.robot), [Path(source) for source in args.sources], args.namespace)
    return (_to_set if args.to == "lerobot" else _to_bags)(args, robot, Path(args.out))


def _to_set(args: argparse.Namespace, robot: RobotConfig, out: Path) -> Outcome:
    from tqdm import tqdm

    from vla_ros.bags.files import find_bags
    from vla_ros.recordings.lerobot.from_bags import SetMaker
    from vla_ros.recordings.lerobot.video import CODECS

    check_choice("--codec", args.codec, tuple(CODECS))
    check_range("--fps", args.fps, 0.1, 1000)
    if args.episodes is not None:
        check_choice("--episodes", args.episodes, EPISODES)
    found = find_bags(*(Path(source) for source in args.sources))
    if not found.bags:
        raise ValueError(
            f"{', '.join(args.sources)}: no rosbag2 bag in it; expected folders of bags, .mcap or .db3 files"
        )
    rule = _rule(args, robot, found.bags)
    problems: dict[str, str] = {}
    maker = SetMaker(found.bags, out, robot, rule, problems.setdefault)
    bar = tqdm(unit="row", dynamic_ncols=True, mininterval=0.5)
    with bar:
        for source in maker.run():
            bar.set_description_str(source, refresh=False)
            bar.update()
    writer = maker.writer
    if not writer.num_episodes:
        why = "; ".join([*problems.values(), *(f"{num} {reason}" for reason, num in maker.num_left_out.items())])
        raise ValueError(f"{out}: no episode in {len(found.bags)} bags; {why or 'nothing was recorded'}")
    for line in problems.values():
        print(f"vla_ros convert: {line}", file=sys.stderr)
    print(f"{out}: {writer.num_episodes} episodes, {writer.num_rows} rows, {rule.fps:g} Hz, {args.codec}")
    for reason, num in sorted(maker.num_left_out.items()):
        print(f"left out: {num} frames {reason}")
    figures = {"out": str(out), "num_episodes": writer.num_episodes, "num_rows": writer.num_rows, "fps": rule.fps}
    return Outcome({**figures, "num_left_out": dict(maker.num_left_out), "problems": list(problems.values())})


def _rule(args: argparse.Namespace, robot: RobotConfig, bags: tuple[Path, ...]) -> SetRule:
    from dataclasses import replace

    from vla_ros.recordings.feed import has_markers
    from vla_ros.recordings.lerobot.from_bags import SetRule, measure_fps
    from vla_ros.spaces.files import SpaceFile, joints_of, read_space
    from vla_ros.spaces.space import parse_space
    from vla_ros.strict import explained

    fps = args.fps or measure_fps(bags[0], robot, args.namespace)
    plain = ({"type": "joints", "joints": list(robot.joint_names)},)
    file = SpaceFile(plain, plain) if args.space is None else read_space(args.space)
    joints = replace(joints_of(robot), chunk_dt_s=1.0 / fps)
    with explained(f"--space {args.space}: "):
        state, action = parse_space(file.state, "data.state", joints), parse_space(file.action, "data.action", joints)
        for space in (state, action):
            space.check_fit(space.size, space.where)
    return SetRule(
        episodes=args.episodes or ("marker" if has_markers(bags, args.namespace) else "task"),
        state=state,
        action=action,
        declared={"state": list(file.state), "action": list(file.action)},
        fps=fps,
        codec=args.codec,
        namespace=args.namespace,
    )


def _to_bags(args: argparse.Namespace, robot: RobotConfig, out: Path) -> Outcome:
    from tqdm import tqdm

    from vla_ros.cli.data_sets import camera_pairs
    from vla_ros.recordings.lerobot.to_bags import write_bags
    from vla_ros.training.config import SetConfig
    from vla_ros.training.sets import open_set

    if len(args.sources) != 1:
        raise ValueError(f"{len(args.sources)} sources with --to mcap; expected one set, and the folder of its bags")
    feed = open_set(SetConfig(args.sources[0], args.space or "", camera_pairs(args.camera)), robot)
    num_rows = sum(episode.length for episode in feed.source.episodes)
    written: set[str] = set()
    bar = tqdm(total=num_rows, unit="row", dynamic_ncols=True, mininterval=0.5)
    with bar:
        for name in write_bags(feed, out, robot):
            written.add(name)
            bar.set_description_str(name, refresh=False)
            bar.update()
    for line in feed.problems:
        print(f"vla_ros convert: {line}", file=sys.stderr)
    num_episodes = len(feed.source.episodes)
    print(f"{out}: {num_episodes} bags, {len(written)} of them new")
    return Outcome({"out": str(out), "num_episodes": num_episodes, "num_new": len(written), "num_rows": num_rows})
