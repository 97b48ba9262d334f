"""Make a policy directory whose numbers are declared otherwise: the same network, the same motion."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.cli.output import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="DIR", help="policy directory, or a packaged policy's name")
    parser.add_argument("out", metavar="OUT", help="policy directory to make; it must not exist yet, or be empty")
    parser.add_argument(
        "--space",
        required=True,
        metavar="PRESET|FILE",
        help="what the numbers of its state and actions are to mean: each in another unit or range",
    )
    parser.add_argument("--robot", default="tabletop", metavar="FILE", help="robot file (default tabletop)")


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.policies.respace import respace
    from vla_ros.robot import load_robot
    from vla_ros.share import policy_dir, robot_file
    from vla_ros.spaces.files import read_space

    out = Path(args.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; give OUT another name, or move it away")
    declared = read_space(args.space)
    document = {"state": declared.state, "action": declared.action}
    made = respace(policy_dir(args.policy), out, document, load_robot(robot_file(args.robot)))
    print(f"{out}: the weights of {args.policy}, and the same motion\ndigest {made.digest}")
    return Outcome({"out": str(out), "policy": args.policy, "digest": made.digest})
