"""Train a policy from bags and LeRobot data sets, and export it as a policy directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome

if TYPE_CHECKING:
    from vla_ros.training.config import TrainConfig
    from vla_ros.training.derive import Wanted
    from vla_ros.training.processes import Processes
    from vla_ros.training.run import TrainingReport

DEFAULT_CONFIG = "tiny_touch"
SHORT = ("robot", "bags", "data", "data_space", "camera", "out", "policy", "start_from", "space")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    short = parser.add_argument_group("from what you have; joints, cameras, sizes, space and statistics follow")
    short.add_argument("--robot", metavar="FILE", help="robot file, or the name of a packaged one")
    weights = "with how often a sample of it is drawn against one of others (default 1)"
    short.add_argument(
        "--bags", nargs="+", metavar="BAG[@WEIGHT]", help=f"bags, storage files, or folders of them, {weights}"
    )
    short.add_argument(
        "--data",
        nargs="+",
        metavar="SET[@WEIGHT]",
        help=f"LeRobot data sets (v3), {weights}",
    )
    same = "what the numbers of the sets mean, where those of the policy mean something else (default: as --space)"
    short.add_argument("--data-space", metavar="PRESET|FILE", help=same)
    short.add_argument(
        "--camera", action="append", metavar="FEATURE=NAME", help="which of the robot's cameras one of the sets is"
    )
    short.add_argument("--out", metavar="DIR", help="policy directory to make; the run goes into DIR_run beside it")
    short.add_argument("--policy", metavar="NAME", help="a size of config/policy (default tiny_touch, for a CPU)")
    start = "policy directory to go on from, or the published weights of a backbone: a folder, or hf:org/repo"
    short.add_argument("--start-from", metavar="DIR", help=start)
    meaning = "what the numbers of states and actions mean (default: the policy's, else joints in rad and m)"
    short.add_argument("--space", metavar="PRESET|FILE", help=meaning)
    whole = parser.add_argument_group("or from a configuration")
    which = f"a .yaml file, or NAME of config/train/NAME.yaml (default {DEFAULT_CONFIG})"
    whole.add_argument("--config", metavar="NAME|FILE", help=which)
    parser.add_argument("--resume", metavar="RUN", help="go on with the run of this folder")
    which = "only write the policy directory --out DIR of a run's newest checkpoint, or of step_STEP"
    parser.add_argument("--export", metavar="RUN[@STEP]", help=which)
    parser.add_argument("--cfg", choices=("job",), help="only print the configuration that would run")
    overrides = "Hydra overrides, such as optimizer.num_steps=100"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)


def run(args: argparse.Namespace) -> Outcome:
    # Before torch is loaded: its threads otherwise spin while they wait for one that the system runs something else
    # instead of.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from vla_ros.strict import config_to_dict
    from vla_ros.training.config import to_yaml
    from vla_ros.training.processes import joined

    if args.export is not None:
        return _export(args)
    with joined() as processes:
        config, overrides = _config(args)
        reports = _train(config, overrides, processes) if args.cfg is None else []
    if not processes.is_first:
        raise SystemExit  # another process of torchrun says and writes what there is
    if args.cfg is not None:
        print(to_yaml(config), end="")
        return Outcome(config_to_dict(config))
    return Outcome(asdict(reports[-1]) | {"output_dir": str(Path(config.output_dir).resolve())})


def _export(args: argparse.Namespace) -> Outcome:
    """Raises ValueError for anything beside ``--out``, and what ``export_policy`` does."""
    from vla_ros.training.export import export_policy

    others = [name for name in (*SHORT, "config", "resume", "cfg") if name != "out" and getattr(args, name) is not None]
    given = [*(f"--{name.replace('_', '-')}" for name in others), *args.overrides]
    if given or args.out is None:
        got = f"--export beside {' '.join(given)}" if given else "--export without --out"
        raise ValueError(f"{got}; expected --export RUN[@STEP] --out DIR")
    run, at, step = args.export.rpartition("@")
    is_step = bool(at) and step.isdecimal() and not Path(args.export).is_dir()
    run_dir, out = Path(run if is_step else args.export).expanduser(), Path(args.out).expanduser()
    path = export_policy(run_dir, out, int(step) if is_step else None)
    print(f"policy directory of {path}: {out}")
    return Outcome({"checkpoint": str(path.resolve()), "output_dir": str(out.resolve())})


def _train(config: TrainConfig, overrides: Sequence[str], processes: Processes) -> list[TrainingReport]:
    """What each run came to; all are checked before the first."""
    from tqdm import tqdm

    from vla_ros.demo.lesson import lesson_of
    from vla_ros.share import robot_file, share_dir
    from vla_ros.training.run import check_config, train
    from vla_ros.training.stages import stages

    runs, reports = stages(config, share_dir() / "config", overrides), []
    for each in runs:
        check_config(each, robot_file(each.robot), lesson_of(each))
    for each in runs:
        if processes.is_first and each is not runs[-1]:
            tqdm.write(f"{each.output_dir} is not there yet and is trained first")
        reports.append(report := train(each, robot_file(each.robot), processes, tqdm.write, lesson_of(each)))
        if processes.is_first:
            print(
                f"{report.num_samples} samples of {report.num_episodes} episodes, "
                f"{report.num_parameters / 1e6:.2f} M parameters, {report.num_steps} steps in "
                f"{report.training_seconds / 60:.1f} min; all in {report.seconds / 60:.1f} min"
            )
    return reports


def _config(args: argparse.Namespace) -> tuple[TrainConfig, list[str]]:
    """What is to run, and the overrides in it. Raises ValueError for options that don't go together."""
    from vla_ros.share import share_dir
    from vla_ros.training.config import RUN_CONFIG, complete_train_config, load_train_config
    from vla_ros.training.derive import derive

    config_dir = share_dir() / "config"
    # What follows --bags or --data without an option in between is taken for more of them.
    taken = (*(args.bags or ()), *(args.data or ()))
    overrides = [*args.overrides, *(text for text in taken if _is_override(text))]
    short = [f"--{name.replace('_', '-')}" for name in SHORT if getattr(args, name) is not None]
    given = {"--resume": args.resume, "--config": args.config, " ".join(short): short}
    ways = [way for way, is_given in given.items() if is_given]
    if len(ways) > 1:
        raise ValueError(f"{ways[0]} beside {ways[1]}; expected one of them: each says all of what is to run")
    if short:
        return complete_train_config(config_dir, derive(_wanted(args)), overrides), overrides
    if args.resume is None:
        return load_train_config(config_dir, args.config or DEFAULT_CONFIG, overrides), overrides
    file = Path(args.resume) / RUN_CONFIG
    if not file.is_file():
        raise ValueError(f"--resume {args.resume}: it has no {RUN_CONFIG}; expected the run_dir of a vla_ros train")
    config = load_train_config(config_dir, str(file), overrides)
    is_there = Path(config.run_dir).resolve() == file.resolve().parent
    return config if is_there else replace(config, run_dir=args.resume), overrides


def _wanted(args: argparse.Namespace) -> Wanted:
    """Paths are made absolute, so that the run goes on from anywhere."""
    from vla_ros.cli.data_sets import read_bags, read_sets
    from vla_ros.share import robot_file
    from vla_ros.training.derive import Wanted

    given = {"--robot": args.robot, "--bags": args.bags or args.data, "--out": args.out}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing; expected --robot FILE --bags BAG (or --data SET) --out DIR")
    sets = [text for text in args.data or () if not _is_override(text)]
    return Wanted(
        robot=robot_file(args.robot).resolve(),
        bags=read_bags([text for text in args.bags or () if not _is_override(text)]),
        out=Path(args.out).expanduser().resolve(),
        policy=args.policy,
        start_from=_source(args.start_from),
        space=args.space,
        sets=read_sets(sets, args.data_space or args.space or "", args.camera),
    )


def _source(text: str | None) -> str | None:
    """A policy directory's or a backbone's folder, where it isn't on the hub."""
    from vla_ros.share import policy_dir

    return text if text is None or text.startswith("hf:") else str(policy_dir(text))


def _is_override(text: str) -> bool:
    return "=" in text and not Path(text).exists()
