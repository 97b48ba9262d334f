"""One run of the bench: this path, the plain composition, the reference as written and stock transformers, in turn."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vla_ros.audit.counting import Cost
from vla_ros.bench.inference.paired import measure_interleaved, paired_ratio
from vla_ros.bench.inference.reference import as_written_actions, plain_actions
from vla_ros.bench.inference.roofline import Peaks, find_peaks
from vla_ros.bench.inference.stages import Stages
from vla_ros.bench.inference.stock import stock_forward
from vla_ros.bench.inference.subject import Subject
from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.base import PolicyObservation

THIS_PATH, PLAIN, AS_WRITTEN, STOCK_PREFIX = (
    "this path",
    "plain_composition",
    "reference_as_written",
    "transformers_prefix",
)
ENCODE_PREFIX = "encode_prefix"
NUM_PREPROCESSING_RUNS = 100
STAGES = ("preprocessing", "copy_in", "prefix", "suffix", "copy_out")


@dataclass(frozen=True)
class BenchReport:
    """Times are medians in ms. ``speedup`` is the median of how many times as long the other takes, None where there is
    no other; ``largest_difference`` is that of the actions from the plain composition's."""

    total_ms: float
    stages_ms: dict[str, float | None]
    speedup: dict[str, float | None]
    prefix_cost: Cost
    step_cost: Cost
    bound_prefix_ms: float
    bound_suffix_ms: float
    peaks: Peaks
    largest_difference: float
    device_name: str

    @property
    def bound_ms(self) -> float:
        return self.bound_prefix_ms + self.bound_suffix_ms


def measure(subject: Subject, device: torch.device, num_rounds: int) -> BenchReport:
    """Everything there is to know about one subject; its weights get packed."""
    runner = PolicyRunner(subject.policy, device, subject.config.num_steps)
    stages = Stages(subject, device)
    observation = PolicyObservation.from_request(subject.request, device)
    stock = stock_forward(subject.policy, observation.policy_input)
    plain = _composition(plain_actions, subject, device)
    contenders: dict[str, Callable[[], object]] = {
        THIS_PATH: lambda: runner.run(subject.request),
        PLAIN: plain,
        AS_WRITTEN: _composition(as_written_actions, subject, device),
        **{name: getattr(stages, name) for name in STAGES[1:]},
    }
    if stock is not None:
        contenders |= {STOCK_PREFIX: torch.inference_mode()(stock), ENCODE_PREFIX: stages.encode_prefix}
    difference = float(np.abs(runner.run(subject.request).actions - plain()).max())
    prefix_cost, step_cost = stages.prefix_cost(), stages.step_cost()
    peaks = [find_peaks(device, _dtype(subject), cost.weight_bytes) for cost in (prefix_cost, step_cost)]
    times_ms = measure_interleaved(contenders, num_rounds, device)
    bases = {PLAIN: THIS_PATH, AS_WRITTEN: THIS_PATH, STOCK_PREFIX: ENCODE_PREFIX}
    if subject.preprocess is not None:  # compared with nothing: many in a row, as from frame to frame
        times_ms |= measure_interleaved({"preprocessing": subject.preprocess}, NUM_PREPROCESSING_RUNS, device)
    medians_ms = {name: float(np.median(values)) for name, values in times_ms.items()}
    return BenchReport(
        total_ms=medians_ms[THIS_PATH],
        stages_ms={name: medians_ms.get(name) for name in STAGES},
        speedup={
            name: paired_ratio(times_ms[name], times_ms[base]) if name in times_ms else None
            for name, base in bases.items()
        },
        prefix_cost=prefix_cost,
        step_cost=step_cost,
        bound_prefix_ms=peaks[0].bound_ms(prefix_cost),
        bound_suffix_ms=subject.config.num_steps * peaks[1].bound_ms(step_cost),
        peaks=peaks[1],
        largest_difference=difference,
        device_name=device_name(device),
    )


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _read_lines("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _read_lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def _dtype(subject: Subject) -> torch.dtype:
    return subject.policy.obs_registers.dtype


def _composition(
    actions_of: Callable[..., torch.Tensor], subject: Subject, device: torch.device
) -> Callable[[], np.ndarray]:
    """From a request on the host to actions on the host, as ``PolicyRunner.run`` goes."""

    @torch.inference_mode()
    def run() -> np.ndarray:
        observation = PolicyObservation.from_request(subject.request, device)
        noise = torch.from_numpy(subject.request.noise)[None].to(device)
        return actions_of(subject.policy, observation, subject.config.num_steps, noise)[0].float().cpu().numpy()

    return run
