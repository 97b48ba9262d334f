"""What a bench found out, as JSON and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vla_ros.bench.inference.roofline import Peaks

_TITLES = {
    "plain_composition": "the plain composition",
    "reference_as_written": "the reference as written",
    "transformers_prefix": "transformers' forward (prefix only)",
}
_ROUNDED = ("speedup", "stages_ms", "total_ms", "bound_ms", "bound_ratio", "bound_prefix_ms", "bound_suffix_ms")


@dataclass(frozen=True)
class BenchReport:
    """The figures of one policy and what they were measured on. Times are medians in ms.

    ``speedup`` is the median of how many times as long the other takes, None where there is no other;
    ``largest_difference`` is that of the actions from the first of the others', None without any. ``bound_prefix_ms``
    is that of all that isn't a denoising step; a policy that has none has no figures of a step and a
    ``bound_suffix_ms`` of 0.
    """

    speedup: dict[str, float | None]
    stages_ms: dict[str, float | None]
    operators_per_step: int | None
    weight_bytes_per_step: int | None
    flops_per_step: int | None
    total_ms: float
    bound_prefix_ms: float
    bound_suffix_ms: float
    peaks: Peaks
    largest_difference: float | None
    policy: str
    num_parameters: int
    num_tokens: int | None
    num_cameras: int
    horizon: int
    num_steps: int
    dtype: str
    device: str
    device_name: str
    num_threads: int
    num_rounds: int
    torch: str
    date: str

    @property
    def bound_ms(self) -> float:
        return self.bound_prefix_ms + self.bound_suffix_ms

    @property
    def bound_ratio(self) -> float:
        return self.total_ms / self.bound_ms


def report_json(report: BenchReport) -> dict[str, Any]:
    """All of it, times and ratios rounded."""
    return asdict(report) | {name: _rounded(getattr(report, name)) for name in _ROUNDED}


def report_text(report: BenchReport) -> str:
    """A page to read."""
    threads = f", {report.num_threads} threads" if report.device == "cpu" else ""
    peaks = report.peaks
    lines = [
        f"{report.policy}: {report.num_parameters / 1e6:.0f} M parameters, {report.dtype} on {report.device_name}"
        f"{threads}, torch {report.torch}",
        f"{report.num_cameras} images, {report.num_tokens or 'no'} tokens, chunk {report.horizon}, "
        f"{report.num_steps or 'no'} steps; medians of {report.num_rounds} rounds",
        "",
        *(f"  {name.replace('_', ' '):<18}{_text(value)} ms" for name, value in report.stages_ms.items()),
        f"  {'copy in … copy out':<18}{_text(report.total_ms)} ms in one call",
        f"  {'bound':<18}{_text(report.bound_ms)} ms; {report.bound_ratio:.2f} times that "
        f"(prefix {report.bound_prefix_ms:.3g}, suffix {report.bound_suffix_ms:.3g}; "
        f"{peaks.bytes_per_s / 1e9:.4g} GB/s and {peaks.flops_per_s / 1e9:.4g} GFLOP/s, {peaks.source})",
        "",
        *(f"  {_speedup(value)} {_TITLES[name]}" for name, value in report.speedup.items()),
    ]
    if report.largest_difference is not None:
        lines.append(f"  actions differ by up to {report.largest_difference:.1e} from the plain composition's")
    if report.operators_per_step is not None:
        cost = f"{report.operators_per_step} operators, {report.weight_bytes_per_step / 1e9:.4g} GB of weights"
        lines.append(f"  a step: {cost}, {report.flops_per_step / 1e9:.4g} GFLOP")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "not known here" if value is None else f"{value:10.2f}"


def _speedup(value: float | None) -> str:
    return "   not compared with" if value is None else f"{value:6.2f} times as fast as"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return None if value is None else round(value, 4)
