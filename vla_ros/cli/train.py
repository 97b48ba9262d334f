"""Train a policy from bags and export it as a policy directory."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from vla_ros.cli.output import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = "config/train/NAME.yaml (default tiny_touch)"
    parser.add_argument("--config", default="tiny_touch", metavar="NAME", help=which)
    overrides = "Hydra overrides, such as optimizer.num_steps=100 bags=FOLDER"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)


def run(args: argparse.Namespace) -> Outcome:
    from tqdm import tqdm

    from vla_ros.demo.lesson import lesson_of
    from vla_ros.share import robot_file, share_dir
    from vla_ros.training.config import load_train_config
    from vla_ros.training.run import train

    config = load_train_config(share_dir() / "config", args.config, args.overrides)
    report = train(config, robot_file(config.robot), tqdm.write, lesson_of(config))
    print(
        f"{report.num_samples} samples of {report.num_episodes} episodes, "
        f"{report.num_parameters / 1e6:.2f} M parameters, "
        f"{report.num_steps} steps in {report.training_seconds / 60:.1f} min; all in {report.seconds / 60:.1f} min"
    )
    return Outcome(asdict(report) | {"output_dir": str(Path(config.output_dir).resolve())})
