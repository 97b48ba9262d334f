"""Make a policy directory of a released checkpoint."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome

if TYPE_CHECKING:
    from vla_ros.policies.importing.directory import ImportReport
    from vla_ros.policies.importing.source import Source
    from vla_ros.robot import RobotConfig

SERVERS = ("ws://", "wss://")
DEFAULT_LEROBOT_VERSION = "0.6"
DEFAULT_DT_S, DEFAULT_MODE = 0.1, "relative"  # of the runs of vla-scratch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of a LeRobot or openpi checkpoint, run directory or one of its checkpoints, "
        "hf:org/repo[/subpath][@revision], or a policy server's ws://host:port or wss://host",
    )
    parser.add_argument("out", metavar="OUT", help="policy directory to make; it must not exist yet, or be empty")
    parser.add_argument("--robot", default="tabletop", metavar="FILE", help="robot file (default tabletop)")
    parser.add_argument(
        "--chunk-dt-s", type=float, metavar="S", help="between two actions (default: the space's, else of a run 0.1)"
    )
    parser.add_argument("--vlm", metavar="PATH", help="the VLM's config.json or its folder (default: found or fetched)")
    declared = parser.add_argument_group("LeRobot's and openpi's checkpoints (the first two of servers and runs, too)")
    declared.add_argument("--space", metavar="PRESET|FILE", help="what the numbers of its state and actions mean")
    declared.add_argument(
        "--camera", action="append", default=[], metavar="SLOT=NAME", help="the robot's camera of a slot, or none"
    )
    declared.add_argument("--asset", metavar="NAME", help="which of openpi's statistics")
    declared.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer.json or its folder (default: found or fetched)"
    )
    declared.add_argument(
        "--lerobot-version",
        default=DEFAULT_LEROBOT_VERSION,
        metavar="V",
        help="whose rules it was trained by: 0.3, 0.4 or 0.6 (default)",
    )
    declared.add_argument(
        "--ignore-step", action="append", default=[], metavar="NAME", help="an unknown step that changes no number"
    )
    declared.add_argument(
        "--for-training", action="store_true", help="a base checkpoint without statistics, to start a training from"
    )
    declared.add_argument(
        "--runner", choices=("lerobot",), help="who runs it: the LeRobot that is installed, for a type unknown here"
    )
    declared.add_argument("--no-state-in-prompt", action="store_true", help="pi0.5 that was trained without it")
    _add_others(parser)


def _add_others(parser: argparse.ArgumentParser) -> None:
    """Of servers and of runs."""
    served = parser.add_argument_group("policy servers that speak openpi's protocol")
    served.add_argument("--keys", metavar="PRESET|FILE", help="the dictionary that the server wants")
    served.add_argument("--api-key-file", default="", metavar="FILE", help="file with its key; only its path is kept")
    served.add_argument(
        "--ca-file", default="", metavar="FILE", help="certificates that vouch for it (default: the system's)"
    )
    runs = parser.add_argument_group("runs of vla-scratch")
    runs.add_argument(
        "--stats", metavar="FILE", help="statistics: an .npz, or hf:org/repo/FILE.npz (default: SOURCE's)"
    )
    runs.add_argument(
        "--action-mode",
        choices=("relative", "absolute"),
        help="actions are relative to the joints at the observation, or absolute (default relative)",
    )
    runs.add_argument(
        "--camera-size", metavar="HxW", help="pixels of every camera's images (default: those of the robot file)"
    )


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.policies.importing.source import RUN, find_source
    from vla_ros.robot import load_robot
    from vla_ros.share import robot_file

    if args.chunk_dt_s is not None and not 0 < args.chunk_dt_s < math.inf:
        raise ValueError(f"--chunk-dt-s is {args.chunk_dt_s}; expected seconds above 0")
    robot, out = load_robot(robot_file(args.robot)), Path(args.out).resolve()
    if args.source.startswith(SERVERS):
        return _import_served(args, robot, out)
    _refuse(args, "a checkpoint, but for a server", "keys", "api_key_file", "ca_file")
    source = find_source(args.source)
    if args.runner:
        return _import_for_lerobot(args, source, robot, out)
    report = _import_run(args, robot, out) if source.kind == RUN else _import_checkpoint(args, source, robot, out)
    height, width = report.image_size
    size = f"{report.num_parameters / 1e6:.1f} M parameters, {report.num_bytes / 1e6:.0f} MB"
    print(
        f"{args.out}: {size}, of {report.model}\n"
        + (f"output embedding {report.head}\n" if report.head else "")
        + f"for {robot.name}, images seen as {height}x{width} pixels, actions {report.chunk_dt_s} s apart\n"
        f"digest {report.digest}"
    )
    return Outcome(asdict(report) | {"model": str(report.model), "out": args.out})


def _import_served(args: argparse.Namespace, robot: RobotConfig, out: Path) -> Outcome:
    from vla_ros.policies.served.recording import ServerAnswers, import_served

    _refuse(
        args, "a server", "runner", "asset", "tokenizer", "vlm", "ignore_step", "no_state_in_prompt", "for_training"
    )
    _refuse(args, "a server", "stats", "action_mode", "camera_size")
    answers = ServerAnswers(args.keys, args.space, args.camera, args.chunk_dt_s, args.api_key_file, args.ca_file)
    report = import_served(args.source, out, robot, answers)
    repeats = "the same each time" if report.is_repeatable else "other ones each time, by noise of its own"
    print(
        f"{args.out}: served by {report.url}, {report.action_horizon} actions of {report.action_dim} numbers, "
        f"{report.chunk_dt_s:g} s apart, for {robot.name}\n"
        f"its answers to the golden case are {repeats}; later ones may be up to {report.largest_tolerance:.3g} off\n"
        f"digest {report.digest}"
    )
    for note in report.notes:
        print(note)
    return Outcome(asdict(report) | {"out": args.out})


def _import_for_lerobot(args: argparse.Namespace, source: Source, robot: RobotConfig, out: Path) -> Outcome:
    from vla_ros.policies.importing.run import Answers
    from vla_ros.policies.importing.source import LEROBOT
    from vla_ros.policies.lerobot.recording import import_for_lerobot

    if source.kind != LEROBOT:
        raise ValueError(f"--runner lerobot: {args.source} is no checkpoint of LeRobot; leave it out")
    _refuse(args, "a policy that LeRobot runs", "asset", "vlm", "ignore_step", "no_state_in_prompt")
    _refuse(args, "a policy that LeRobot runs", "stats", "action_mode", "camera_size", "for_training")
    if args.lerobot_version != DEFAULT_LEROBOT_VERSION:
        raise ValueError("--lerobot-version is not for a policy that LeRobot runs, by its own rules; leave it out")
    answers = Answers(args.space, args.camera, args.chunk_dt_s, tokenizer=args.tokenizer)
    report = import_for_lerobot(source.folder, out, robot, answers)
    print(
        f"{args.out}: '{report.lerobot_type}' run by LeRobot {report.release}, {report.action_horizon} actions of "
        f"{report.action_dim} numbers, {report.chunk_dt_s:g} s apart, for {robot.name}\ndigest {report.digest}"
    )
    for note in report.notes:
        print(note)
    return Outcome(asdict(report) | {"out": args.out})


def _import_checkpoint(args: argparse.Namespace, source: Source, robot: RobotConfig, out: Path) -> ImportReport:
    from vla_ros.policies.importing.run import Answers, import_checkpoint
    from vla_ros.policies.importing.settings import LEROBOT_VERSIONS

    _refuse(args, "a checkpoint of LeRobot or openpi", "stats", "action_mode", "camera_size")
    if args.lerobot_version not in LEROBOT_VERSIONS:
        got = f"--lerobot-version is '{args.lerobot_version}'"
        raise ValueError(f"{got}; expected one of {', '.join(LEROBOT_VERSIONS)}")
    answers = Answers(
        space=args.space,
        cameras=args.camera,
        chunk_dt_s=args.chunk_dt_s,
        asset=args.asset,
        tokenizer=args.tokenizer,
        vlm=args.vlm,
        lerobot_version=args.lerobot_version,
        ignored_steps=tuple(args.ignore_step),
        tells_state=not args.no_state_in_prompt,
        for_training=args.for_training,
    )
    return import_checkpoint(source, out, robot, answers)


def _import_run(args: argparse.Namespace, robot: RobotConfig, out: Path) -> ImportReport:
    from vla_ros.policies.pi.released.directory import import_run
    from vla_ros.policies.pi.released.settings import RobotSettings

    _refuse(args, "a run", "asset", "tokenizer", "ignore_step", "no_state_in_prompt", "for_training")
    if args.space:
        _refuse(args, "a run with --space, whose components say it", "action_mode")
    else:
        _refuse(args, "a run without --space", "camera")
    settings = RobotSettings(
        joint_names=robot.joint_names,
        camera_names=robot.camera_names,
        camera_size=_camera_size(args.camera_size, {(camera.height, camera.width) for camera in robot.cameras}),
        chunk_dt_s=DEFAULT_DT_S if args.chunk_dt_s is None else args.chunk_dt_s,
        action_mode=args.action_mode or DEFAULT_MODE,
    )
    if args.space:
        settings = settings.declared(args.space, robot, args.camera, args.chunk_dt_s)
    report = import_run(args.source, out, settings, args.vlm, args.stats)
    if not args.space:
        print(
            f"the run doesn't say what its numbers are: taken for {', '.join(robot.joint_names)} in rad and m, actions "
            f"{settings.action_mode}, {settings.chunk_dt_s:g} s apart, cameras {', '.join(robot.camera_names)}; "
            "where that is wrong, give --space, --action-mode, --chunk-dt-s or another --robot"
        )
    return report


def _refuse(args: argparse.Namespace, what: str, *options: str) -> None:
    """Raises ValueError for an option that means nothing here: dropped in silence it would be believed."""
    for option in options:
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} is not for {what}; leave it out")


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
