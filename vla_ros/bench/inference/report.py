"""A bench report as JSON and as text."""

from __future__ import annotations

import datetime
from typing import Any

import torch

from vla_ros.bench.inference.measure import BenchReport
from vla_ros.bench.inference.subject import Subject

_TITLES = {
    "plain_composition": "the plain composition",
    "reference_as_written": "the reference as written",
    "transformers_prefix": "transformers' forward (prefix only)",
}


def report_json(report: BenchReport, subject: Subject, device: torch.device, num_rounds: int) -> dict[str, Any]:
    """The report with what it was measured on; times in ms."""
    step = report.step_cost
    return {
        "speedup": {name: _rounded(value) for name, value in report.speedup.items()},
        "stages_ms": {name: _rounded(value) for name, value in report.stages_ms.items()},
        "bound_ms": _rounded(report.bound_ms),
        "operators_per_step": None if step is None else step.num_operators,
        "weight_bytes_per_step": None if step is None else step.weight_bytes,
        "flops_per_step": None if step is None else step.flops,
        "total_ms": _rounded(report.total_ms),
        "bound_ratio": _rounded(report.total_ms / report.bound_ms),
        "bound_prefix_ms": _rounded(report.bound_prefix_ms),
        "bound_suffix_ms": _rounded(report.bound_suffix_ms),
        "peaks": vars(report.peaks),
        "largest_difference": report.largest_difference,
        "policy": subject.name,
        "num_parameters": _num_parameters(subject),
        "num_tokens": report.num_tokens,
        "num_cameras": len(subject.request.view().image_grid),
        "horizon": subject.config.action_horizon,
        "num_steps": report.num_steps,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "device": str(device),
        "device_name": report.device_name,
        "num_threads": torch.get_num_threads(),
        "num_rounds": num_rounds,
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def report_text(report: BenchReport, subject: Subject, device: torch.device, num_rounds: int) -> str:
    """A page to read."""
    num_images = len(subject.request.view().image_grid)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    step, peaks, dtype = report.step_cost, report.peaks, str(subject.dtype).removeprefix("torch.")
    lines = [
        f"{subject.name}: {_num_parameters(subject) / 1e6:.0f} M parameters, {dtype} on {report.device_name}"
        f"{threads}, torch {torch.__version__}",
        f"{num_images} images, {report.num_tokens or 'no'} tokens, chunk {subject.config.action_horizon}, "
        f"{report.num_steps or 'no'} steps; medians of {num_rounds} rounds",
        "",
        *(f"  {name.replace('_', ' '):<18}{_text(value)} ms" for name, value in report.stages_ms.items()),
        f"  {'copy in … copy out':<18}{_text(report.total_ms)} ms in one call",
        f"  {'bound':<18}{_text(report.bound_ms)} ms; {report.total_ms / report.bound_ms:.2f} times that "
        f"(prefix {report.bound_prefix_ms:.3g}, suffix {report.bound_suffix_ms:.3g}; "
        f"{peaks.bytes_per_s / 1e9:.4g} GB/s and {peaks.flops_per_s / 1e9:.4g} GFLOP/s, {peaks.source})",
        "",
        *(f"  {_speedup(value)} {_TITLES[name]}" for name, value in report.speedup.items()),
    ]
    if report.largest_difference is not None:
        lines.append(f"  actions differ by up to {report.largest_difference:.1e} from the plain composition's")
    if step is not None:
        cost = f"{step.num_operators} operators, {step.weight_bytes / 1e9:.4g} GB of weights"
        lines.append(f"  a step: {cost}, {step.flops / 1e9:.4g} GFLOP")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "not known here" if value is None else f"{value:10.2f}"


def _speedup(value: float | None) -> str:
    return "   not compared with" if value is None else f"{value:6.2f} times as fast as"


def _num_parameters(subject: Subject) -> int:
    return sum(parameter.numel() for parameter in subject.policy.parameters())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
