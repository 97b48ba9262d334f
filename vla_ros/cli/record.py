"""Record a robot's live topics into a rosbag2 MCAP bag, byte for byte; images also as JPEG.

Exits 1 where a topic of the robot file stayed silent or has another type: the bag holds the others.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from vla_ros.cli.output import Outcome, check_range
from vla_ros.strict import check_choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robot", default="tabletop", metavar="FILE", help="robot file (default tabletop)")
    parser.add_argument("--out", required=True, metavar="BAG", help="folder of the new bag; it must not exist yet")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after this long (default: on Ctrl-C)")
    parser.add_argument("--link", action="store_true", help="record the model's requests and results, too")
    parser.add_argument(
        "--compress",
        default="none",
        metavar="HOW",
        help="none (default), zstd (the whole bag, nothing is lost), or jpeg (images alone, on TOPIC/compressed; all "
        "commands read them as if they were not)",
    )
    parser.add_argument(
        "--quality", type=int, default=85, metavar="N", help="of --compress jpeg, 1 to 100 (default 85)"
    )
    parser.add_argument("--namespace", default="", metavar="NS", help="namespace that the nodes run in (default none)")
    parser.add_argument(
        "--use-sim-time", action="store_true", help="stamp with the time of /clock, and wait for it to begin"
    )
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="remappings and parameters of ROS; comes last",
    )


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.record.run import COMPRESSIONS, RecordConfig, record
    from vla_ros.ros.dds import cure_of_losses

    check_choice("--compress", args.compress, COMPRESSIONS)
    check_range("--quality", args.quality, 1, 100)
    if args.duration is not None and args.duration <= 0:
        raise ValueError(f"--duration is {args.duration:g}; expected more than 0")
    config = RecordConfig(
        robot=args.robot,
        bag=Path(args.out),
        duration_s=args.duration,
        with_link=args.link,
        namespace=args.namespace,
        use_sim_time=args.use_sim_time,
        ros_args=tuple(args.ros_args),
        compress=args.compress,
        quality=args.quality,
    )
    report = record(config)
    how = {"none": "", "zstd": ", packed with zstd", "jpeg": f", images as JPEG of quality {args.quality}"}
    print(f"{report.bag}: {report.seconds:g} s, {report.num_bytes / 1e6:.1f} MB{how[args.compress]}")
    for topic in report.topics:
        lost = f", {topic.num_lost} lost on the way: {cure_of_losses()}" if topic.num_lost else ""
        print(f"{topic.num_messages:8d} {topic.rate_hz:8.2f} Hz  {topic.topic}  ({topic.type}){lost}")
    for problem in report.problems:
        print(f"vla_ros record: {problem}", file=sys.stderr)
    return Outcome(asdict(report), not report.problems)
