"""The options of ``vla_ros replay`` for many bags: stored results, processes, shards, a cluster."""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome, check_range

if TYPE_CHECKING:
    from vla_ros.replay.fleet.run import ReplayBags
    from vla_ros.replay.session import ReplaySession, SessionConfig

NOT_GIVEN = {
    "policy": None,
    "robot": "tabletop",
    "latency": None,
    "strategy": "latest",
    "rate": 0.0,
    "namespace": "",
    "data_space": None,
    "camera": None,
    "device": "cpu",
    "threads": 1,
    "results": None,
    "jobs": None,
    "shard": None,
    "ray": None,
}
"""What a replay takes that is done already when results are merged, and its value where it isn't given."""
MAX_NOTES = 20


def add_fleet_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="keep a result of each bag here; what is there is not done again"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that replay bags (default 1), with --results")
    parser.add_argument("--shard", metavar="i/n", help="replay every n-th bag from the i-th on only, with --results")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="replay bags on a Ray cluster (default: the one Ray finds, else this machine), with --results",
    )
    parser.add_argument("--merge", type=Path, metavar="DIR", help="judge all results of a folder as one replay")


def check_fleet_arguments(args: argparse.Namespace) -> None:
    """Raises ValueError for options that don't go together."""
    if args.merge is not None:
        given = [f"--{name.replace('_', '-')}" for name, default in NOT_GIVEN.items() if getattr(args, name) != default]
        if given or args.bags:
            got = given[0] if given else f"bag {args.bags[0]}"
            raise ValueError(f"{got} with --merge; what was replayed, and with what, is in {args.merge}: leave it out")
        return
    if not args.bags:
        raise ValueError("no BAG is given; expected at least one, or --merge DIR")
    if args.results is None:
        for name in ("jobs", "shard", "ray"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} without --results DIR; say where results are kept")
    check_range("--jobs", args.jobs, 1)
    if args.jobs is not None and args.ray is not None:
        raise ValueError("--jobs with --ray; the cluster says how many tasks run at a time: leave one out")
    if args.shard is not None:
        for name in ("out", "baseline"):
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name} with --shard; when all shards are done: --merge {args.results} --{name} ..."
                )


def merged(path: Path, driver: str) -> ReplaySession:
    """All results of a folder as one replay. Raises ValueError as ``ResultsFolder`` does."""
    from vla_ros.replay.fleet.folder import ResultsFolder

    return ResultsFolder.find(path).merge(driver)


def replay_into(args: argparse.Namespace, config: SessionConfig) -> ReplaySession | Outcome:
    """Replay what has no result yet; then all results together, or, of a shard, how many there are now."""
    from tqdm import tqdm

    from vla_ros.replay.fleet.folder import ResultsFolder, Run
    from vla_ros.replay.fleet.plan import Plan
    from vla_ros.replay.fleet.run import Shard, replay_fleet
    from vla_ros.share import robot_file

    shard = Shard() if args.shard is None else Shard.parse(args.shard)
    plan = Plan.of(config, robot_file(args.robot))
    folder = ResultsFolder(args.results, Run(plan, tuple(map(str, config.bags))))
    with closing(tqdm(total=len(shard.of(folder.run.bags)), unit="bag", dynamic_ncols=True, disable=None)) as bar:
        report = replay_fleet(folder, shard, _replay_bags(args), bar.update)
    for line in report.notes[:MAX_NOTES]:
        print(line)
    print(
        f"{report.replayed} bags replayed into {args.results}, {report.refused} of them could not be used; "
        f"{report.there} had a result already"
    )
    return folder.merge(args.driver) if args.shard is None else Outcome(asdict(report))


def _replay_bags(args: argparse.Namespace) -> ReplayBags:
    """Who replays bags: this process, others of this machine, or a cluster."""
    if args.ray is not None:
        try:
            from vla_ros.replay.fleet.cluster import replay_on_ray
        except ModuleNotFoundError as error:
            raise ValueError(
                f"--ray: the Python package '{error.name}' is missing; pip install 'vla_ros[ray]'"
            ) from None
        return partial(replay_on_ray, address=args.ray)
    if args.jobs is not None and args.jobs > 1:
        from vla_ros.replay.fleet.processes import replay_in_processes

        return partial(replay_in_processes, num_processes=args.jobs)
    from vla_ros.replay.fleet.run import replay_here

    return replay_here
