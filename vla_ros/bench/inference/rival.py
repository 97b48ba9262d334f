"""A policy beside another program that runs it, with the same weights, observation and noise, in one process."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.bench.inference.measure import device_name
from vla_ros.bench.inference.paired import measure_interleaved, paired_ratio
from vla_ros.bench.inference.subject import random_policy
from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.directory import load_policy
from vla_ros.policies.families import family_of, find_policy
from vla_ros.policies.files import open_policy
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.types import Observation

THIS, OTHER = "this", "other"
MakeRival = Callable[[BasePolicy, list[tuple[int, int]]], Any]


@dataclass(frozen=True)
class RivalReport:
    """Medians in ms from camera pictures to a normalised chunk on the host. ``ratio`` is the median over alternating
    pairs of how many times as long the other takes, ``ratio_range`` what half of the pairs lie in;
    ``largest_difference`` is that of the actions."""

    policy: str
    other: str
    ratio: float
    ratio_range: tuple[float, float]
    this_ms: float
    other_ms: float
    largest_difference: float
    num_cameras: int
    num_parameters: int
    num_rounds: int
    num_threads: int
    device_name: str
    torch: str
    date: str


@dataclass(frozen=True)
class Case:
    """What both are given."""

    name: str
    policy: BasePolicy
    processor: PolicyProcessor
    observation: Observation


def open_case(name: str, device: torch.device) -> Case:
    """A policy directory's golden observation, or a configuration by name with random weights and pictures; float32.

    Raises ValueError where there is neither, or nothing can be made up.
    """
    found = find_policy(name)
    if isinstance(found, Path):
        loaded = load_policy(found, device)
        return Case(found.name, loaded.policy, loaded.processor, open_policy(found).golden.observation)
    trials = family_of(found).make_trials()
    processor = trials.make_processor(found)
    if processor is None:
        raise ValueError(f"'{name}' is of {found.type}, for which no processor is made up; give a policy directory")
    policy = random_policy(found, device, torch.float32, num_copies=2)  # the other's own, until they are shared
    return Case(name, policy, processor, trials.make_observation(processor))


def measure_against(
    case: Case, other: str, make_rival: MakeRival, device: torch.device, num_rounds: int
) -> RivalReport:
    """Run both in turn. ``make_rival`` is given the policy and the sizes of its cameras' pictures and gives something
    with a ``run(images, request)``; its ``other`` is what it is called."""
    names = case.processor.camera_names
    images = [case.observation.images[name] for name in names]
    rival = make_rival(case.policy, [(image.shape[0], image.shape[1]) for image in images])  # before weights are packed
    runner, request = PolicyRunner(case.policy, device), case.processor.process(case.observation)
    ours, theirs = runner.run(request).actions, rival.run(images, request)
    times_ms = measure_interleaved(
        {
            THIS: lambda: runner.run(case.processor.process(case.observation)),
            OTHER: lambda: rival.run(images, request),
        },
        num_rounds,
        device,
        num_runs=1,  # long ones, of which two would be farther from each other in time
    )
    ratios = times_ms[OTHER] / times_ms[THIS]
    return RivalReport(
        policy=case.name,
        other=other,
        ratio=paired_ratio(times_ms[OTHER], times_ms[THIS]),
        ratio_range=(float(np.quantile(ratios, 0.25)), float(np.quantile(ratios, 0.75))),
        this_ms=float(np.median(times_ms[THIS])),
        other_ms=float(np.median(times_ms[OTHER])),
        largest_difference=float(np.abs(ours - theirs).max()),
        num_cameras=len(images),
        num_parameters=sum(parameter.numel() for parameter in case.policy.parameters()),
        num_rounds=num_rounds,
        num_threads=torch.get_num_threads(),
        device_name=device_name(device),
        torch=torch.__version__,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def rival_json(report: RivalReport) -> dict[str, Any]:
    """All of it."""
    return asdict(report)


def rival_text(report: RivalReport) -> str:
    """A page to read."""
    low, high = report.ratio_range
    return "\n".join(
        (
            f"{report.policy}: {report.num_parameters / 1e6:.0f} M parameters, float32 on {report.device_name}, "
            f"{report.num_threads} threads, torch {report.torch}",
            f"from {report.num_cameras} camera pictures to a chunk, same weights, noise and tokens; medians of "
            f"{report.num_rounds} alternating pairs",
            "",
            f"  {'this':<16}{report.this_ms:10.2f} ms",
            f"  {report.other:<16}{report.other_ms:10.2f} ms",
            f"  {report.ratio:.2f} times as fast as {report.other} (half of the pairs: {low:.2f} to {high:.2f}); "
            f"actions differ by up to {report.largest_difference:.1e}",
        )
    )
