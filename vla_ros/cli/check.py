"""Look at the live graph and say what fits the robot file and what doesn't."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome, check_range

if TYPE_CHECKING:
    from vla_ros.check.judge import PolicyNeeds
    from vla_ros.robot import RobotConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("robot", metavar="ROBOT", help="robot file, or the name of a packaged one")
    parser.add_argument("--policy", metavar="DIR", help="also compare this policy directory, which is to drive it")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="N", help="how long to look (default 5)")
    parser.add_argument("--namespace", default="", metavar="NS", help="namespace that the nodes run in (default none)")
    sim_time = "stamps are in the time of /clock, as in a simulation"
    parser.add_argument("--use-sim-time", action="store_true", help=sim_time)


def run(args: argparse.Namespace) -> Outcome:
    check_range("--seconds", args.seconds, 0.5, 3600)

    from vla_ros.check.finding import is_good, page, to_json
    from vla_ros.check.judge import judge
    from vla_ros.check.live import load_live_robot, watch
    from vla_ros.share import robot_file

    path = robot_file(args.robot)
    robot = load_live_robot(path, args.namespace)
    needs = None if args.policy is None else _needs(args.policy, robot)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    title = f"{robot.name} ({path}), {args.seconds:g} s of ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}"
    if sys.stdout.isatty():
        print(f"looking for {args.seconds:g} s ...", end="\r", flush=True)
    findings = judge(robot, watch(robot, args.seconds, args.namespace, args.use_sim_time), needs)
    print(page(title, findings, colours=colours))
    return Outcome(to_json(findings), is_good(findings))


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
