"""One run of the bench: this path, the plain composition, the reference as written and stock transformers, in turn."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.bench.inference.paired import measure_interleaved, paired_ratio
from vla_ros.bench.inference.report import BenchReport
from vla_ros.bench.inference.roofline import find_peaks
from vla_ros.bench.inference.stages import ENCODE_PREFIX, Stages
from vla_ros.bench.inference.subject import Subject
from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.families import family_of
from vla_ros.policies.modules.flow_matching import FlowMatchingPolicy

THIS_PATH, STOCK_PREFIX = "this path", "transformers_prefix"
PREPROCESSING = "preprocessing"
NUM_PREPROCESSING_RUNS = 100


def measure(subject: Subject, device: torch.device, num_rounds: int) -> BenchReport:
    """Everything there is to know about one subject; its weights get packed."""
    policy, request, trials = subject.policy, subject.request, family_of(subject.config).make_trials()
    runner, stages = PolicyRunner(policy, device), Stages(subject, device)
    others = {name: _composition(run, subject, device) for name, run in trials.compositions(policy).items()}
    actions = runner.run(request).actions
    differences = [float(np.abs(actions - other()).max()) for other in list(others.values())[:1]]
    cost, step = stages.cost(), stages.step_cost()
    peaks = [find_peaks(device, subject.dtype, each.weight_bytes) for each in (cost, step or cost)]
    times_ms = _times_ms(subject, runner, stages.runs, others, num_rounds, device)
    medians_ms = {name: float(np.median(values)) for name, values in times_ms.items()}
    bases = {**dict.fromkeys(others, THIS_PATH), STOCK_PREFIX: ENCODE_PREFIX}
    num_steps = policy.num_steps if isinstance(policy, FlowMatchingPolicy) else 0
    return BenchReport(
        speedup={
            name: paired_ratio(times_ms[name], times_ms[base]) if name in times_ms else None
            for name, base in bases.items()
        },
        stages_ms={name: medians_ms.get(name) for name in (PREPROCESSING, *stages.runs) if name != ENCODE_PREFIX},
        operators_per_step=step and step.num_operators,
        weight_bytes_per_step=step and step.weight_bytes,
        flops_per_step=step and step.flops,
        total_ms=medians_ms[THIS_PATH],
        bound_prefix_ms=peaks[0].bound_ms(cost),
        bound_suffix_ms=num_steps * peaks[1].bound_ms(step) if step is not None else 0.0,
        peaks=peaks[1],
        largest_difference=differences[0] if differences else None,
        policy=subject.name,
        num_parameters=sum(parameter.numel() for parameter in policy.parameters()),
        num_tokens=trials.num_tokens(request),
        num_cameras=len(request.view().image_grid),
        horizon=subject.config.action_horizon,
        num_steps=num_steps,
        dtype=str(subject.dtype).removeprefix("torch."),
        device=str(device),
        device_name=device_name(device),
        num_threads=torch.get_num_threads(),
        num_rounds=num_rounds,
        torch=torch.__version__,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _times_ms(
    subject: Subject,
    runner: PolicyRunner,
    stages: dict[str, Callable[[], object]],
    others: dict[str, Callable[[], object]],
    num_rounds: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Of this path, its stages and the others; the backbone's part of the prefix only beside stock transformers."""
    inputs = subject.policy.unpack_request(subject.request, device)
    stock = family_of(subject.config).make_trials().stock_prefix(subject.policy, inputs)
    contenders: dict[str, Callable[[], object]] = {THIS_PATH: lambda: runner.run(subject.request)} | others | stages
    if stock is not None:
        contenders[STOCK_PREFIX] = torch.inference_mode()(stock)
    else:
        contenders.pop(ENCODE_PREFIX, None)
    times_ms = measure_interleaved(contenders, num_rounds, device)
    if subject.preprocess is None:
        return times_ms
    # Compared with nothing: many in a row, as from frame to frame.
    return times_ms | measure_interleaved({PREPROCESSING: subject.preprocess}, NUM_PREPROCESSING_RUNS, device)


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
    unpack = partial(subject.policy.unpack_request, subject.request, device)
    return torch.inference_mode()(lambda: actions_of(unpack())[0].float().cpu().numpy())
