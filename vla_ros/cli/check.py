"""Say what of a live robot fits its robot file and a policy, or what of recordings would be wrong before a training."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.check_recorded import add_data_arguments, check_recordings
from vla_ros.cli.output import Outcome, check_range

if TYPE_CHECKING:
    from vla_ros.check.finding import Finding
    from vla_ros.check.judge import PolicyNeeds
    from vla_ros.robot import RobotConfig

SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject = (
        "without --robot: a robot file, or the name of a packaged one, whose live robot is looked at; with it: DATA"
    )
    parser.add_argument("subject", nargs="*", metavar="ROBOT | DATA", help=f"{subject}, recordings to learn from")
    parser.add_argument(
        "--policy", metavar="NAME", help="also compare this policy directory, which is to drive or learn"
    )
    live = parser.add_argument_group("of a live robot")
    live.add_argument("--seconds", type=float, metavar="N", help=f"how long to look (default {SECONDS:g})")
    sim_time = "stamps are in the time of /clock, as in a simulation"
    live.add_argument("--use-sim-time", action="store_true", help=sim_time)
    where = "namespace that the nodes run in, or that the bags were recorded in (default none)"
    parser.add_argument("--namespace", default="", metavar="NS", help=where)
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> Outcome:
    if args.robot is not None and args.subject:
        return _come_to(*check_recordings(args))
    return _come_to(*_check_live(args))


def _come_to(title: str, findings: Sequence[Finding]) -> Outcome:
    """Print the page."""
    from vla_ros.check.finding import is_good, page, to_json

    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(page(title, findings, colours=colours))
    return Outcome(to_json(findings), is_good(findings))


def _check_live(args: argparse.Namespace) -> tuple[str, Sequence[Finding]]:
    names = [*args.subject, *([] if args.robot is None else [args.robot])]
    if len(names) != 1:
        expected = "expected one robot file, or recordings with --robot FILE"
        raise ValueError(f"{', '.join(names) or 'nothing'} to check; {expected}")
    _check_is_file(names[0])
    for option, value in (("--space", args.space), ("--data-space", args.data_space), ("--camera", args.camera)):
        if value is not None:
            raise ValueError(f"{option} without DATA; expected recordings: a live robot has no need of it")
    seconds = SECONDS if args.seconds is None else args.seconds
    check_range("--seconds", seconds, 0.5, 3600)

    from vla_ros.check.judge import judge
    from vla_ros.check.live import load_live_robot, watch
    from vla_ros.share import robot_file

    path = robot_file(names[0])
    robot = load_live_robot(path, args.namespace)
    needs = None if args.policy is None else _needs(args.policy, robot)
    title = f"{robot.name} ({path}), {seconds:g} s of ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}"
    if sys.stdout.isatty():
        print(f"looking for {seconds:g} s ...", end="\r", flush=True)
    return title, judge(robot, watch(robot, seconds, args.namespace, args.use_sim_time), needs)


def _check_is_file(name: str) -> None:
    if Path(name).is_dir() or Path(name).suffix in (".mcap", ".db3"):
        raise ValueError(f"{name} is no robot file; expected one, or recordings with --robot FILE")


def _needs(policy: str, robot: RobotConfig) -> PolicyNeeds:
    """What the policy expects of the robot. Raises ValueError for a directory that cannot be used."""
    from vla_ros.check.judge import PolicyNeeds
    from vla_ros.policies.files import open_policy
    from vla_ros.share import policy_dir

    opened = open_policy(policy_dir(policy))
    processor, misfit, shortfall = opened.processor, "", ""
    if processor.joint_names == robot.joint_names:
        try:
            processor.bind(robot)
            shortfall = processor.decode(opened.golden.actions, opened.golden.observation).shortfall
        except ValueError as error:
            misfit = str(error)
    names, sizes = processor.camera_names, processor.taken_sizes
    fixed = {joint.name for joint in robot.joints if joint.fixed}
    unmoved = () if misfit else tuple(name for name in processor.data.action_space.joint_names if name in fixed)
    return PolicyNeeds(processor.joint_names, names, sizes, misfit, shortfall, unmoved)
