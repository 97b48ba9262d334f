"""Run the simulated arm, both nodes and the policy, and score its episodes.

Exits 1 where fewer episodes succeed than ``--min-success``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_ros.cli.output import Outcome, check_range
from vla_ros.strict import check_choice

VIEW_HZ, FILM_HZ = 2.0, 10.0
FILMS = (".gif", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--episodes", type=int, default=10, metavar="N", help="how many episodes (default 10)")
    option("--seed", type=int, default=0, metavar="S", help="seed of the first scene (default 0)")
    option("--min-success", type=float, default=0.7, metavar="SHARE", help="exit 1 below it (default 0.7)")
    option("--policy", default="tiny_touch", metavar="DIR", help="policy directory (default tiny_touch)")
    option("--robot", default="tabletop", metavar="FILE", help="robot file of the simulated arm (tabletop)")
    option("--strategy", default="latest", help="how chunks follow each other: latest, ensemble or rtc")
    slower = "make the model slower by this (default 0)"
    option("--inference-delay-ms", type=float, default=0.0, metavar="MS", help=slower)
    option("--out", default="outputs/demo", metavar="DIR", help="for pictures and logs (outputs/demo)")
    gif = "write a moving picture of the first episodes there, .gif or .webp"
    option("--gif", metavar="FILE", help=gif)
    swap = "N scenes instead, in each of which every block is named in turn"
    option("--swap-targets", action="store_true", help=swap)


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.demo.run import report_json, run_demo
    from vla_ros.demo.world import WorldConfig
    from vla_ros.runtime.schedule import STRATEGIES

    check_range("--episodes", args.episodes, 1)
    check_range("--seed", args.seed, 0)
    check_range("--min-success", args.min_success, 0, 1)
    check_choice("--strategy", args.strategy, STRATEGIES)
    check_range("--inference-delay-ms", args.inference_delay_ms, 0, 10_000)
    out_dir = Path(args.out)
    world = WorldConfig(
        robot=args.robot,
        policy=args.policy,
        strategy=args.strategy,
        inference_delay_ms=args.inference_delay_ms,
        log_dir=out_dir / "logs",
        seed=args.seed,
        view_hz=FILM_HZ if args.gif else VIEW_HZ,
    )
    film = None if args.gif is None else Path(args.gif)
    if film is not None and film.suffix.lower() not in FILMS:
        raise ValueError(f"--gif is '{args.gif}'; expected a file's name that ends in {' or '.join(FILMS)}")
    report = run_demo(world, args.episodes, args.swap_targets, out_dir, film)
    return Outcome(report_json(report, by_scene=args.swap_targets), report.success_rate >= args.min_success)
