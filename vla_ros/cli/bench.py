"""Measure an inference, against a yardstick and against what the device could do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vla_ros.cli.output import write_json

EXTRAS = ("sim",)
DEFAULT_REPEATS, DEFAULT_SCALE_REPEATS = 11, 3
DEFAULT_PICTURE = "outputs/bench/scale.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        required=True,
        metavar="NAME",
        help="a policy directory, or a configuration with random weights: pi-qwen, pi-paligemma, pi-paligemma2, pi-smol, mid",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to run it (default: cuda where there is one)")
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads on a CPU (default: torch's own choice)")
    parser.add_argument(
        "--repeats", type=int, metavar="N", help=f"rounds (default {DEFAULT_REPEATS}; {DEFAULT_SCALE_REPEATS} with --scale)"
    )
    parser.add_argument(
        "--scale",
        nargs="?",
        const=DEFAULT_PICTURE,
        metavar="PNG",
        help=f"sweep cameras, chunk and steps instead, with random weights, and plot the growth ({DEFAULT_PICTURE})",
    )


def run(args: argparse.Namespace) -> int:
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
    from vla_ros.bench.measure import measure
    from vla_ros.bench.report import report_json, report_text
    from vla_ros.bench.subject import open_subject

    num_rounds = args.repeats or DEFAULT_REPEATS
    subject = open_subject(args.policy, device, dtype)
    report = measure(subject, device, num_rounds)
    print(report_text(report, subject, device, num_rounds))
    return report_json(report, subject, device, num_rounds)


def _scale(args: argparse.Namespace, device: Any, dtype: Any) -> dict[str, Any]:
    from vla_ros.bench.measure import device_name
    from vla_ros.bench.plot import write_growth
    from vla_ros.bench.scale import sweep
    from vla_ros.bench.subject import sizes_of

    sizes = sizes_of(args.policy)
    num_rounds = args.repeats or DEFAULT_SCALE_REPEATS
    sweeps = sweep(sizes, device, dtype, num_rounds, lambda line: print(line, flush=True))
    write_growth(Path(args.scale), f"{sizes.name} on {device_name(device)}, {str(dtype).removeprefix('torch.')}", sweeps)
    print(f"growth: {args.scale}")
    points = {field: [vars(point) for point in swept] for field, swept in sweeps.items()}
    return {"policy": sizes.name, "device_name": device_name(device), "num_threads": _num_threads(), **points}


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()
