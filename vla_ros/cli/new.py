"""Write the draft of a robot file from a URDF and the running robot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome, check_range

if TYPE_CHECKING:
    from vla_ros.check.draft import Found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("robot",), help="what is to be written")
    parser.add_argument("--from-urdf", required=True, metavar="FILE", help="the robot's URDF, expanded")
    parser.add_argument("--out", metavar="FILE", help="robot file to be written (default: the URDF's name with .yaml)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="N", help="how long to listen (default 3)")
    parser.add_argument("--namespace", default="", metavar="NS", help="namespace that the nodes run in (default none)")


def run(args: argparse.Namespace) -> Outcome:
    check_range("--seconds", args.seconds, 0.5, 3600)

    from os.path import relpath

    from vla_ros.check.draft import TODO, draft
    from vla_ros.strict import explained, read_text

    urdf = Path(args.from_urdf)
    with explained(f"--from-urdf {urdf}: ", OSError, ValueError):
        text = read_text(urdf)
    out = Path(args.out or f"{urdf.stem}.yaml")
    draft(text, str(urdf), found=_nothing("no graph"))  # what is wrong with it is told before anybody waits
    if out.exists():
        raise ValueError(f"{out} exists; give --out another name, or move it away")
    found = _found(args.seconds, args.namespace)
    written = draft(text, relpath(urdf, out.parent), found)
    with explained(f"--out {out}: ", OSError):
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "x") as file:  # what somebody wrote meanwhile stays
            file.write(written)
    num_todo = written.count(TODO)
    print(f"{out}: {num_todo} TODOs to settle; then: vla_ros check {out}")
    for what, topics in (
        ("pictures", [camera.topic for camera in found.cameras]),
        ("joint states", [source.topic for source in found.joint_states]),
        ("trajectories", found.trajectories),
    ):
        print(f"  {what}: {', '.join(topics) or 'none'}")
    return Outcome({"file": str(out), "num_todo": num_todo, "looked_at": found.note})


def _found(seconds: float, namespace: str) -> Found:
    """What the live graph has; nothing where ROS isn't installed."""
    try:
        from vla_ros.check.found import find
    except ModuleNotFoundError:
        return _nothing("no ROS installation")
    return find(seconds, namespace)


def _nothing(note: str) -> Found:
    from vla_ros.check.draft import Found

    return Found(note)
