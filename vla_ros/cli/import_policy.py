"""Make a policy directory of a released checkpoint."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from vla_ros.cli.output import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="run directory, one of its checkpoints, or hf:org/repo[/subpath][@revision]"
    )
    parser.add_argument("out", metavar="OUT", help="policy directory to make; it must not exist yet, or be empty")
    parser.add_argument("--vlm", metavar="PATH", help="the VLM's config.json or its folder (default: found or fetched)")
    parser.add_argument("--stats", metavar="FILE", help="statistics, an .npz (default: the one in SOURCE)")
    parser.add_argument("--robot", default="tabletop", metavar="FILE", help="robot file (default tabletop)")
    parser.add_argument("--chunk-dt-s", type=float, default=0.1, metavar="S", help="between two actions (default 0.1)")
    parser.add_argument(
        "--action-mode",
        choices=("relative", "absolute"),
        default="relative",
        help="actions are relative to the joints at the observation, or absolute (default relative)",
    )
    parser.add_argument(
        "--camera-size", metavar="HxW", help="pixels of every camera's images (default: those of the robot file)"
    )


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.policies.pi.released.directory import import_run
    from vla_ros.policies.pi.released.settings import RobotSettings
    from vla_ros.robot import load_robot
    from vla_ros.share import robot_file

    if not 0 < args.chunk_dt_s < math.inf:
        raise ValueError(f"--chunk-dt-s is {args.chunk_dt_s}; expected seconds above 0")
    robot = load_robot(robot_file(args.robot))
    settings = RobotSettings(
        joint_names=robot.joint_names,
        camera_names=robot.camera_names,
        camera_size=_camera_size(args.camera_size, {(camera.height, camera.width) for camera in robot.cameras}),
        chunk_dt_s=args.chunk_dt_s,
        action_mode=args.action_mode,
    )
    report = import_run(args.source, Path(args.out).resolve(), settings, args.vlm, args.stats)
    height, width = report.image_size
    size = f"{report.num_parameters / 1e6:.1f} M parameters, {report.num_bytes / 1e6:.0f} MB"
    print(
        f"{args.out}: {size}, of {report.model}\n"
        f"output embedding {report.head}\n"
        f"{len(settings.joint_names)} joints and {len(settings.camera_names)} cameras of {robot.name}, seen as "
        f"{height}x{width} pixels; {settings.action_mode} actions, {settings.chunk_dt_s} s apart\n"
        f"digest {report.digest}"
    )
    return Outcome(asdict(report) | {"model": str(report.model), "out": args.out})


def _camera_size(given: str | None, of_robot: set[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) from ``HxW``, or the one size that all cameras have."""
    if given is None:
        if len(of_robot) != 1:
            sizes = ", ".join(f"{height}x{width}" for height, width in sorted(of_robot))
            raise ValueError(f"the robot's cameras have sizes {sizes} (HxW); name one with --camera-size HxW")
        return next(iter(of_robot))
    height, _, width = given.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"--camera-size is '{given}'; expected HxW in pixels, such as 480x640")
    return int(height), int(width)
