"""One run of the bench: this path, the plain composition, the reference as written and stock transformers, in turn."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.audit.counting import Cost
from vla_ros.bench.inference.paired import measure_interleaved, paired_ratio
from vla_ros.bench.inference.roofline import Peaks, find_peaks
from vla_ros.bench.inference.stages import ENCODE_PREFIX, Stages
from vla_ros.bench.inference.subject import Subject
from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.families import family_of
from vla_ros.policies.modules.flow_matching import FlowMatchingPolicy

THIS_PATH, STOCK_PREFIX = "this path", "transformers_prefix"
PREPROCESSING = "preprocessing"
NUM_PREPROCESSING_RUNS = 100


@dataclass(frozen=True)
class BenchReport:
    """Times are medians in ms. ``speedup`` is the median of how many times as long the other takes, None where there is
    no other; ``largest_difference`` is that of the actions from the first of the others', None without any.

    ``prefix_cost`` and ``bound_prefix_ms`` are those of all that isn't a denoising step; ``step_cost`` is None and
    ``bound_suffix_ms`` 0 for a policy that has none.
    """

    total_ms: float
    stages_ms: dict[str, float | None]
    speedup: dict[str, float | None]
    num_steps: int
    num_tokens: int | None
    prefix_cost: Cost
    step_cost: Cost | None
    bound_prefix_ms: float
    bound_suffix_ms: float
    peaks: Peaks
    largest_difference: float | None
    device_name: str

    @property
    def bound_ms(self) -> float:
        return self.bound_prefix_ms + self.bound_suffix_ms


def measure(subject: Subject, device: torch.device, num_rounds: int) -> BenchReport:
    """Everything there is to know about one subject; its weights get packed."""
    runner, stages = PolicyRunner(subject.policy, device), Stages(subject, device)
    trials = family_of(subject.config).make_trials()
    stock = trials.stock_prefix(subject.policy, subject.policy.unpack_request(subject.request, device))
    others = {
        name: _composition(actions_of, subject, device)
        for name, actions_of in trials.compositions(subject.policy).items()
    }
    contenders: dict[str, Callable[[], object]] = {THIS_PATH: lambda: runner.run(subject.request), **others}
    contenders |= {name: run for name, run in stages.runs.items() if name != ENCODE_PREFIX}
    if stock is not None:
        contenders |= {STOCK_PREFIX: torch.inference_mode()(stock), ENCODE_PREFIX: stages.runs[ENCODE_PREFIX]}
    actions = runner.run(subject.request).actions
    differences = [float(np.abs(actions - other()).max()) for other in list(others.values())[:1]]
    cost, step_cost = stages.cost(), stages.step_cost()
    peaks = [find_peaks(device, subject.dtype, each.weight_bytes) for each in (cost, step_cost or cost)]
    times_ms = measure_interleaved(contenders, num_rounds, device)
    bases = {**dict.fromkeys(others, THIS_PATH), STOCK_PREFIX: ENCODE_PREFIX}
    if subject.preprocess is not None:  # compared with nothing: many in a row, as from frame to frame
        times_ms |= measure_interleaved({PREPROCESSING: subject.preprocess}, NUM_PREPROCESSING_RUNS, device)
    medians_ms = {name: float(np.median(values)) for name, values in times_ms.items()}
    names = [PREPROCESSING, *(name for name in stages.runs if name != ENCODE_PREFIX)]
    num_steps = subject.policy.num_steps if isinstance(subject.policy, FlowMatchingPolicy) else 0
    return BenchReport(
        total_ms=medians_ms[THIS_PATH],
        stages_ms={name: medians_ms.get(name) for name in names},
        speedup={
            name: paired_ratio(times_ms[name], times_ms[base]) if name in times_ms else None
            for name, base in bases.items()
        },
        num_steps=num_steps,
        num_tokens=trials.num_tokens(subject.request),
        prefix_cost=cost,
        step_cost=step_cost,
        bound_prefix_ms=peaks[0].bound_ms(cost),
        bound_suffix_ms=num_steps * peaks[1].bound_ms(step_cost) if step_cost is not None else 0.0,
        peaks=peaks[1],
        largest_difference=differences[0] if differences else None,
        device_name=device_name(device),
    )


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _composition(
    actions_of: Callable[[Any], torch.Tensor], subject: Subject, device: torch.device
) -> Callable[[], np.ndarray]:
    """From a request on the host to actions on the host, as ``PolicyRunner.run`` goes."""

    @torch.inference_mode()
    def run() -> np.ndarray:
        inputs = subject.policy.unpack_request(subject.request, device)
        return actions_of(inputs)[0].float().cpu().numpy()

    return run
