"""Measure an inference, against a yardstick and against what the device could do; or the control of a live run.

``--json`` with ``--control``: ``rows``, the table (its keys: ``vla_ros.bench.control.table.rows_json``), and what was
asked for: ``strategy``, ``inference_delay_ms``, ``control_rate_hz`` (0: the robot file's) and ``seconds``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vla_ros.cli.output import write_json

EXTRAS = ("ros", "sim")
DEFAULT_REPEATS, DEFAULT_SCALE_REPEATS = 11, 3
DEFAULT_SECONDS, DEFAULT_CONTROL_POLICY = 20.0, "tiny_touch"
DEFAULT_PICTURE = "outputs/bench/scale.png"
CONTROL_OPTIONS = ("seconds", "strategy", "inference_delay_ms", "control_rate_hz", "out")
DEFAULT_LOGS = "outputs/bench/control"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="a policy directory, or a configuration with random weights: pi-qwen, pi-paligemma, pi-paligemma2, "
        f"pi-smol, pi-smol-500m, mid (with --control a policy directory, default {DEFAULT_CONTROL_POLICY})",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to run it (default: cuda where there is one)")
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads on a CPU (default: torch's own choice)")
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help=f"rounds (default {DEFAULT_REPEATS}; {DEFAULT_SCALE_REPEATS} with --scale)",
    )
    parser.add_argument(
        "--scale",
        nargs="?",
        const=DEFAULT_PICTURE,
        metavar="PNG",
        help=f"sweep cameras, chunk and steps instead, with random weights, and plot the growth ({DEFAULT_PICTURE})",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="measure the control of the nodes instead, live in the demo's world: limits, takeovers, a killed model",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="N", help=f"with --control: how long the policy drives ({DEFAULT_SECONDS:g})"
    )
    parser.add_argument(
        "--strategy", metavar="S", help="with --control: how chunks follow each other: latest, ensemble or rtc (latest)"
    )
    parser.add_argument(
        "--inference-delay-ms", type=float, metavar="MS", help="with --control: make the model slower by this (0)"
    )
    parser.add_argument(
        "--control-rate-hz", type=float, metavar="HZ", help="with --control: commands per second (the robot file's)"
    )
    parser.add_argument("--out", metavar="DIR", help=f"with --control: for the nodes' logs ({DEFAULT_LOGS})")


def run(args: argparse.Namespace) -> int:
    return _control(args) if args.control else _inference(args)


def _control(args: argparse.Namespace) -> int:
    _refuse(args, "--control", "device", "num_threads", "repeats", "scale")
    seconds = DEFAULT_SECONDS if args.seconds is None else args.seconds
    strategy, delay_ms = args.strategy or "latest", args.inference_delay_ms or 0.0
    rate_hz = args.control_rate_hz

    from vla_ros.bench.control.run import ControlBenchConfig, run_control_bench
    from vla_ros.bench.control.table import rows_json, table
    from vla_ros.runtime.schedule import STRATEGIES

    if not 1.0 <= seconds <= 3600.0:
        raise ValueError(f"--seconds is {seconds:g}; expected 1 to 3600")
    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy is '{strategy}'; expected one of {', '.join(STRATEGIES)}")
    if not 0.0 <= delay_ms <= 10_000.0:
        raise ValueError(f"--inference-delay-ms is {delay_ms:g}; expected 0 to 10000")
    if rate_hz is not None and not 1.0 <= rate_hz <= 1000.0:
        raise ValueError(f"--control-rate-hz is {rate_hz:g}; expected 1 to 1000")
    rows = run_control_bench(
        ControlBenchConfig(
            seconds=seconds,
            policy=args.policy or DEFAULT_CONTROL_POLICY,
            strategy=strategy,
            inference_delay_ms=delay_ms,
            control_rate_hz=rate_hz or 0.0,
            log_dir=Path(args.out or DEFAULT_LOGS),
        )
    )
    print()
    print(table(rows))
    pace = {"control_rate_hz": rate_hz or 0.0, "seconds": seconds}
    asked = {"strategy": strategy, "inference_delay_ms": delay_ms, **pace}
    write_json(args.json, {"rows": rows_json(rows), **asked})
    return 1 if any(row.ok is False for row in rows) else 0


def _refuse(args: argparse.Namespace, beside: str, *names: str) -> None:
    """Raises ValueError for an option that belongs to the other measurement."""
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} does not go with {beside}; leave one of them out")


def _inference(args: argparse.Namespace) -> int:
    for name in CONTROL_OPTIONS:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --control only")
    if args.policy is None:
        raise ValueError("--policy is missing; give a policy directory, or a configuration such as mid")
    for option, value in (("--repeats", args.repeats), ("--num-threads", args.num_threads)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; expected at least 1")

    import torch

    device = _device(args.device, torch)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if args.scale is None:
        write_json(args.json, _bench(args, device, dtype))
    else:
        write_json(args.json, _scale(args, device, dtype))
    return 0


def _device(name: str | None, torch: Any) -> Any:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda, and torch sees no GPU; give --device cpu or install CUDA torch")
    return torch.device(name or ("cuda" if available else "cpu"))


def _bench(args: argparse.Namespace, device: Any, dtype: Any) -> dict[str, Any]:
    from vla_ros.bench.inference.measure import measure
    from vla_ros.bench.inference.report import report_json, report_text
    from vla_ros.bench.inference.subject import open_subject

    num_rounds = args.repeats or DEFAULT_REPEATS
    subject = open_subject(args.policy, device, dtype)
    report = measure(subject, device, num_rounds)
    print(report_text(report, subject, device, num_rounds))
    return report_json(report, subject, device, num_rounds)


def _scale(args: argparse.Namespace, device: Any, dtype: Any) -> dict[str, Any]:
    from vla_ros.bench.inference.measure import device_name
    from vla_ros.bench.inference.plot import write_growth
    from vla_ros.bench.inference.scale import sweep
    from vla_ros.bench.inference.subject import sizes_of

    sizes = sizes_of(args.policy)
    num_rounds = args.repeats or DEFAULT_SCALE_REPEATS
    sweeps = sweep(sizes, device, dtype, num_rounds, lambda line: print(line, flush=True))
    write_growth(
        Path(args.scale), f"{sizes.name} on {device_name(device)}, {str(dtype).removeprefix('torch.')}", sweeps
    )
    print(f"growth: {args.scale}")
    points = {field: [vars(point) for point in swept] for field, swept in sweeps.items()}
    return {"policy": sizes.name, "device_name": device_name(device), "num_threads": _num_threads(), **points}


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()
