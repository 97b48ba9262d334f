"""Prove that no inference waits for the device; needs no GPU."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from vla_ros.cli.output import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", required=True, metavar="NAME", help="a configuration, such as pi-qwen, or a policy directory"
    )


def run(args: argparse.Namespace) -> Outcome:
    config, request = _policy(args.policy)  # first: a wrong name is refused before torch is loaded
    if config.waits_for:
        print(f"{args.policy}: each inference waits for {config.waits_for}; nothing here can be proved of that")
        return Outcome({"policy": args.policy, "waits": 1, "waits_for": config.waits_for}, False)

    from vla_ros.audit.counting import count_published_step
    from vla_ros.audit.kernels import count_published_kernels
    from vla_ros.audit.passes import audit

    reports = audit(config, request)
    step, kernels = count_published_step(config, request), count_published_kernels(config, request)
    num_waits = sum(report.num_waits for report in reports)
    num_transfers = sum(report.num_transfers for report in reports)
    _print_table(reports)
    if step is not None:
        size = f"{step.weight_bytes / 1e9:.3f} GB of weights in bfloat16"
        print(f"a denoising step: {step.num_operators} operators, {size}")
    for stage, counted in kernels.items():
        copies = f"{counted.num_copies} of them copies ({counted.num_hidden} hidden)"
        print(
            f"{stage} on CUDA: {counted.total} kernels, {copies}; {counted.num_long_sums} products may be one more each"
        )
    clean = num_waits + num_transfers == 0
    print(f"{args.policy}: {'nothing waits' if clean else f'{num_waits} waits, {num_transfers} undeclared transfers'}")
    figures = {
        "policy": args.policy,
        "waits": num_waits,
        "transfers": num_transfers,
        "events": [{"pass": report.name, **vars(event)} for report in reports for event in report.events],
        "operators_per_step": None if step is None else step.num_operators,
        "weight_bytes_per_step": None if step is None else step.weight_bytes,
        "kernels": {stage: _kernels_json(counted) for stage, counted in kernels.items()},
        "passes": {report.name: _pass_json(report) for report in reports},
    }
    return Outcome(figures, clean)


def _policy(name: str) -> tuple[Any, Any]:
    """Configuration and a request of the published sizes. Raises ValueError where there is no such policy."""
    from vla_ros.policies.families import family_of, find_policy
    from vla_ros.policies.files import open_policy

    found = find_policy(name)
    if not isinstance(found, Path):
        return found, family_of(found).make_trials().make_request(found)
    opened = open_policy(found)
    return opened.processor.config, opened.golden.request


def _print_table(reports: Any) -> None:
    print(f"{'pass':20}{'waits':>6}{'transfers':>11}{'declared':>10}{'seconds':>9}")
    for report in reports:
        counts = f"{report.num_waits:6}{report.num_transfers:11}{report.num_declared:10}{report.seconds:9.1f}"
        print(f"{report.name:20}{counts}{'' if report.complete else '  ended at a wait'}")
        for event, count in Counter(report.events).items():
            times = f"  {count} times" if count > 1 else ""
            print(f"  {event.kind}: {event.operator}  {event.file}:{event.line}{times}")


def _pass_json(report: Any) -> dict[str, Any]:
    return {
        "waits": report.num_waits,
        "transfers": report.num_transfers,
        "declared_transfers": report.num_declared,
        "complete": report.complete,
        "seconds": round(report.seconds, 1),
    }


def _kernels_json(counted: Any) -> dict[str, Any]:
    return {
        "total": counted.total,
        "copies": counted.num_copies,
        "hidden_copies": counted.num_hidden,
        "long_sums": counted.num_long_sums,
        "names": dict(counted.names.most_common()),
    }
