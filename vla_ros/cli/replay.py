"""Run bags through the whole node and say what a policy does with them: may it touch the robot?

Exits 1 where it differs from the baseline, or is worse than the policy before it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.output import Outcome, write_json
from vla_ros.cli.replay_fleet import add_fleet_arguments, check_fleet_arguments, merged, replay_into

if TYPE_CHECKING:
    from vla_ros.replay.baseline.record import Baseline
    from vla_ros.replay.judge.verdict import Verdict
    from vla_ros.replay.run import Progress
    from vla_ros.replay.session import ReplaySession, SessionConfig

RECORDED = "recorded"
UNKNOWN_LATENCY_MS = 100.0
MAX_LINES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bags",
        nargs="*",
        type=Path,
        metavar="BAG",
        help="rosbag2 bags: folders, .mcap or .db3 files, or folders of such; LeRobot data sets (v3)",
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="DIR",
        help="policy directory (default tiny_touch); twice: trusted, then new",
    )
    parser.add_argument("--robot", default="tabletop", metavar="FILE", help="robot file (default tabletop)")
    parser.add_argument("--out", metavar="REPORT", help="an HTML file, with the JSON next to it; or a folder for both")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with this stored result")
    parser.add_argument("--update-baseline", action="store_true", help="write --baseline anew instead")
    parser.add_argument("--driver", default="any", help="whose stretches are compared: policy, teleop or any (default)")
    parser.add_argument(
        "--latency",
        metavar="recorded|MS",
        help="from request to answer: as in the bag, or fixed (default: recorded, or 100 ms where the bag has none)",
    )
    parser.add_argument("--strategy", default="latest", help="how chunks follow each other: latest, ensemble or rtc")
    parser.add_argument("--rate", type=float, default=0.0, metavar="HZ", help="commands (default 0: the robot file's)")
    parser.add_argument("--namespace", default="", help="namespace that the bags were recorded in")
    meaning = "what the numbers of data sets mean (default: as a set says, else joints in rad and m)"
    parser.add_argument("--data-space", metavar="PRESET|FILE", help=meaning)
    which = "which of the robot's cameras one of a data set is"
    parser.add_argument("--camera", action="append", metavar="FEATURE=NAME", help=which)
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu (default), cuda or auto")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for one operation on the CPU (default 1)")
    add_fleet_arguments(parser)


def run(args: argparse.Namespace) -> Outcome:
    from vla_ros.replay.baseline.record import read_baseline
    from vla_ros.replay.session import replay_session

    check_fleet_arguments(args)
    if args.update_baseline and args.baseline is None:
        raise ValueError("--update-baseline without --baseline FILE; say which file to write")
    config = None if args.merge is not None else _config(args)
    baseline = None if args.baseline is None or args.update_baseline else read_baseline(args.baseline)
    if config is None:
        return _judge(args, merged(args.merge, args.driver), baseline)
    if args.results is not None:
        session = replay_into(args, config)
        return session if isinstance(session, Outcome) else _judge(args, session, baseline)
    started = time.perf_counter()
    session = replay_session(config, _progress_bar)
    seconds = time.perf_counter() - started
    outcome = _judge(args, session, baseline, f"in {seconds:.1f} s, ")
    times = {"seconds": seconds, "times_real_time": session.recorded_s / seconds}
    return Outcome(outcome.figures | {"times": times}, outcome.is_good)


def _config(args: argparse.Namespace) -> SessionConfig:
    from vla_ros.recordings.description import load_robot_of
    from vla_ros.replay.episodes import recordings_in
    from vla_ros.replay.session import SessionConfig
    from vla_ros.replay.settings import ReplaySettings
    from vla_ros.share import policy_dir, robot_file

    policies = tuple(policy_dir(name) for name in args.policy or ["tiny_touch"])
    if len(policies) > 2 or (len(policies) == 2 and args.baseline is not None):
        raise ValueError(f"{len(policies)} policies; expected one, or two without --baseline")
    bags = tuple(bag for path in args.bags for bag in recordings_in(path))
    return SessionConfig(
        bags=bags,
        policies=policies,
        robot=load_robot_of(robot_file(args.robot), bags, args.namespace),
        settings=ReplaySettings(
            strategy=args.strategy,
            control_rate_hz=args.rate,
            latency_ms=_latency_ms(args.latency),
            unknown_latency_ms=UNKNOWN_LATENCY_MS if args.latency is None else None,
            namespace=args.namespace,
            set_space=args.data_space or "",
            set_cameras=",".join(args.camera or ()),
        ),
        driver=args.driver,
        device=args.device,
        num_threads=args.threads,
    )


def _judge(args: argparse.Namespace, session: ReplaySession, baseline: Baseline | None, took: str = "") -> Outcome:
    """Say what a replay comes to, and how long it ``took``, and write what was asked for."""
    from vla_ros.replay.judge.verdict import FAIL
    from vla_ros.replay.report.page import write_report

    if len(session.summaries) == 2 and args.baseline is not None:
        raise ValueError("--baseline with a replay of two policies; expected one policy, or no --baseline")
    if args.update_baseline:
        session.write_baseline(args.baseline)
    verdict, differences = session.judge(baseline, renewed=str(args.baseline) if args.update_baseline else "")
    document = session.document(verdict, differences)
    _print_session(session, verdict)
    strategy = session.config.settings.strategy
    print(f"\nreplayed {took}with strategy {strategy} whatever the bags were recorded with")
    if args.out is not None:
        page, values = _report_files(Path(args.out))
        replaces = ", in place of the one before" if page.exists() or values.exists() else ""
        write_json(str(values), document)  # no times: the same replay gives the same files
        write_report(session, verdict, page)
        print(f"report: {page}{replaces}")
    return Outcome(document, verdict.word != FAIL)


def _latency_ms(text: str | None) -> float | None:
    if text in (None, RECORDED):
        return None
    try:
        latency_ms = float(text)
    except ValueError:
        latency_ms = -1.0
    if not 0.0 <= latency_ms <= 60_000.0:
        raise ValueError(f"--latency is {text}; expected {RECORDED}, or 0 to 60000 ms")
    return latency_ms


def _report_files(out: Path) -> tuple[Path, Path]:
    return (out, out.with_suffix(".json")) if out.suffix == ".html" else (out / "report.html", out / "report.json")


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress]:
    """A bar in seconds of the bag, with the time left where the bag says how long it is."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of the bag, {remaining} left"
    with tqdm(desc=name, unit="s", dynamic_ncols=True, disable=None) as bar:

        def show(passed_s: float, length_s: float | None) -> None:
            if length_s is not None:
                bar.total, bar.bar_format = length_s, layout
            bar.update(max(0.0, passed_s - bar.n))

        yield show


def _print_session(session: ReplaySession, verdict: Verdict) -> None:
    """Verdict first, then each policy's figures, then what was wrong with the bags."""
    print(f"\n{verdict.word.upper()}: {verdict.reasons[0]}")
    for reason in verdict.reasons[1 : 1 + MAX_LINES]:
        print(f"  {reason}")
    if len(verdict.reasons) > 1 + MAX_LINES:
        print(f"  ... and {len(verdict.reasons) - 1 - MAX_LINES} more, in the JSON")
    for summary in session.summaries:
        names, errors, commands = summary.joint_names, summary.commanded.by_joint, summary.command_mae
        print(f"\npolicy {summary.name}  {summary.digest[:12]}")
        print(f"  {summary.num_chunks} chunks of {len(summary.bags)} bags, {summary.num_episodes} episodes")
        print(f"  latency p50 {summary.latency_ms(50):.0f} ms, p99 {summary.latency_ms(99):.0f} ms")
        counts = [summary.num_incidents[kind] for kind in ("limit", "watchdog", "processor")]
        print("  {} commands bounded by limits, {} stops by watchdogs, {} refusals".format(*counts))
        print(f"  {'mean error':<18}{'chunk':>10}{'of range':>10}{'command':>10}")
        for row in zip(names, errors, summary.commanded.by_joint_fraction, commands, strict=True):
            print("  {:<18}{:10.4f}{:9.2%} {:10.4f}".format(*row))
    for line in session.problems[:MAX_LINES]:
        print(f"  bag: {line}")
    if len(session.problems) > MAX_LINES:
        print(f"  ... and {len(session.problems) - MAX_LINES} more, in the JSON")
