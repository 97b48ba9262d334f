"""Record a robot's live topics into a rosbag2 MCAP bag, byte for byte."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from vla_ros.cli.output import write_json

EXTRAS = ("ros", "sim")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", default="tabletop", metavar="FILE", help="robot file (default tabletop)")
    parser.add_argument("--out", required=True, metavar="BAG", help="folder of the new bag; it must not exist yet")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after this long (default: on Ctrl-C)")


def run(args: argparse.Namespace) -> int:
    from vla_ros.nodes.record import record

    if args.seconds is not None and args.seconds <= 0:
        raise ValueError(f"--seconds is {args.seconds}; expected more than 0")
    report = record(args.robot, Path(args.out), args.seconds)
    write_json(args.json, asdict(report))
    return 0
