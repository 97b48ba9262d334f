"""Measure an inference, against a yardstick and against what the device could do; or the control of a live run.

``--json`` with ``--control``: ``rows``, the table (its keys: ``vla_ros.bench.control.rows.rows_json``), and what was
asked for: ``strategy``, ``inference_delay_ms``, ``control_rate_hz`` (0: the robot file's) and ``seconds``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vla_ros.cli.output import Outcome, check_range
from vla_ros.strict import check_choice

DEFAULT_REPEATS, DEFAULT_SCALE_REPEATS = 11, 3
DEFAULT_SECONDS, DEFAULT_CONTROL_POLICY = 20.0, "tiny_touch"
DEFAULT_PICTURE = "outputs/bench/scale.png"
INFERENCE_OPTIONS = ("device", "num_threads", "repeats", "scale", "against")
CONTROL_OPTIONS = ("seconds", "strategy", "inference_delay_ms", "control_rate_hz", "out")
DEFAULT_LOGS = "outputs/bench/control"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="a policy directory, or a configuration with random weights: pi-qwen, pi-paligemma, pi-paligemma2, "
        "pi-smol, pi-smol-500m, pi0, pi05, smolvla, act, mid (with --control a policy directory, default "
        f"{DEFAULT_CONTROL_POLICY})",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to run it (default: cuda where there is one)")
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads on a CPU (default: torch's own choice)")
    repeats = f"rounds (default {DEFAULT_REPEATS}; {DEFAULT_SCALE_REPEATS} with --scale)"
    parser.add_argument("--repeats", type=int, metavar="N", help=repeats)
    parser.add_argument(
        "--scale",
        nargs="?",
        const=DEFAULT_PICTURE,
        metavar="PNG",
        help=f"sweep cameras, chunk and steps instead, with random weights, and plot the growth ({DEFAULT_PICTURE})",
    )
    parser.add_argument(
        "--against",
        choices=("lerobot",),
        help="run an installed LeRobot on the same weights in turn instead, and print the ratio",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="measure the control of the nodes instead, live in the demo's world: limits, takeovers, a killed model",
    )
    option = parser.add_argument_group("with --control").add_argument
    option("--seconds", type=float, metavar="N", help=f"how long the policy drives (default {DEFAULT_SECONDS:g})")
    option("--strategy", metavar="S", help="how chunks follow each other: latest (default), ensemble or rtc")
    option("--inference-delay-ms", type=float, metavar="MS", help="make the model slower by this (default 0)")
    option("--control-rate-hz", type=float, metavar="HZ", help="commands per second (default: the robot file's)")
    option("--out", metavar="DIR", help=f"folder for the nodes' logs (default {DEFAULT_LOGS})")


def run(args: argparse.Namespace) -> Outcome:
    unfit = INFERENCE_OPTIONS if args.control else CONTROL_OPTIONS
    for name in (name for name in unfit if getattr(args, name) is not None):
        why = "does not go with --control; leave one of them out" if args.control else "goes with --control only"
        raise ValueError(f"--{name.replace('_', '-')} {why}")
    return _control(args) if args.control else _inference(args)


def _control(args: argparse.Namespace) -> Outcome:
    from vla_ros.bench.control.rows import rows_json, table
    from vla_ros.bench.control.run import run_control_bench
    from vla_ros.demo.world import WorldConfig
    from vla_ros.runtime.schedule import STRATEGIES

    seconds = DEFAULT_SECONDS if args.seconds is None else args.seconds
    strategy = args.strategy or "latest"
    check_range("--seconds", seconds, 1, 3600)
    check_choice("--strategy", strategy, STRATEGIES)
    check_range("--inference-delay-ms", args.inference_delay_ms, 0, 10_000)
    check_range("--control-rate-hz", args.control_rate_hz, 1, 1000)
    pace = {"inference_delay_ms": args.inference_delay_ms or 0.0, "control_rate_hz": args.control_rate_hz or 0.0}
    policy, log_dir = args.policy or DEFAULT_CONTROL_POLICY, Path(args.out or DEFAULT_LOGS)
    rows = run_control_bench(WorldConfig("tabletop", policy, strategy, log_dir=log_dir, **pace), seconds)
    print(f"\n{table(rows)}")
    figures = {"rows": rows_json(rows), "strategy": strategy, **pace, "seconds": seconds}
    return Outcome(figures, all(row.ok is not False for row in rows))


def _inference(args: argparse.Namespace) -> Outcome:
    if args.policy is None:
        raise ValueError("--policy is missing; give a policy directory, or a configuration such as mid")
    check_range("--repeats", args.repeats, 1)
    check_range("--num-threads", args.num_threads, 1)

    import torch

    from vla_ros.policies.directory import find_device

    device = find_device(args.device or "auto", "--device")
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    if args.against is not None:
        if args.scale is not None:
            raise ValueError("--against does not go with --scale; leave one of them out")
        return Outcome(_against_lerobot(args, device))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Outcome((_bench if args.scale is None else _scale)(args, device, dtype))


def _against_lerobot(args: argparse.Namespace, device: Any) -> dict[str, Any]:
    from vla_ros.bench.inference.rival import measure_against, open_case, rival_json, rival_text
    from vla_ros.policies.lerobot.installed import require_lerobot
    from vla_ros.policies.lerobot.rival import LeRobotRival

    other = f"LeRobot {require_lerobot()}"  # first: opening a policy takes a while
    report = measure_against(
        open_case(args.policy, device), other, LeRobotRival, device, args.repeats or DEFAULT_REPEATS
    )
    print(rival_text(report))
    return rival_json(report)


def _bench(args: argparse.Namespace, device: Any, dtype: Any) -> dict[str, Any]:
    from vla_ros.bench.inference.measure import measure
    from vla_ros.bench.inference.report import report_json, report_text
    from vla_ros.bench.inference.subject import open_subject

    report = measure(open_subject(args.policy, device, dtype), device, args.repeats or DEFAULT_REPEATS)
    print(report_text(report))
    return report_json(report)


def _scale(args: argparse.Namespace, device: Any, dtype: Any) -> dict[str, Any]:
    import torch

    from vla_ros.bench.inference.measure import device_name
    from vla_ros.bench.inference.scale import sweep, write_growth
    from vla_ros.bench.inference.subject import sizes_of

    sizes = sizes_of(args.policy)
    num_rounds = args.repeats or DEFAULT_SCALE_REPEATS
    sweeps = sweep(sizes, device, dtype, num_rounds, lambda line: print(line, flush=True))
    title = f"{sizes.name} on {device_name(device)}, {str(dtype).removeprefix('torch.')}"
    write_growth(Path(args.scale), title, sweeps)
    print(f"growth: {args.scale}")
    points = {field: [vars(point) for point in swept] for field, swept in sweeps.items()}
    return {"policy": sizes.name, "device_name": device_name(device), "num_threads": torch.get_num_threads(), **points}
