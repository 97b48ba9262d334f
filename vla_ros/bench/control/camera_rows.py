"""The rows of the control bench's cameras: what the policy node costs, and under which conditions that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from vla_ros.bench.control.rows import Driven, Span
from vla_ros.bench.control.table import Row
from vla_ros.robot import RobotConfig
from vla_ros.units import MS_PER_NS, NS_PER_S

CAMERA_RATE_HZ, CONTROL_RATE_HZ, CHUNK_PERIOD_MS = 30, 50.0, 200
MIN_RATE_SHARE = 0.99
MAX_PERIOD_SHARE = 1.1
"""Chunks that should come every 200 ms come every 220 ms at most."""
MAX_CPU_PERCENT = 60.0
WHAT, UNIT = "CPU time of the policy node", "% of one core"


def camera_rows(
    driven: Driven, frames_ns: Mapping[str, Sequence[int]], num_drops: int, robot: RobotConfig
) -> list[Row]:
    """The policy node's CPU time, which counts only where cameras and chunks came as fast as they should, and the
    control thread's ticks; ``frames_ns`` is when each camera's images arrived."""
    spans = [drive.span for drive in driven.drives]
    frame_ms = max(_mean_ms(_intervals_ns(times_ns, spans)) for times_ns in frames_ns.values())
    chunk_ms = _mean_ms(_intervals_ns([heard.arrived_ns for heard in driven.chunks], spans))
    intervals_ns = _intervals_ns([command.sent_ns for command in driven.commands], spans)
    rate_hz = 1e3 / frame_ms
    is_camera_slow = rate_hz < MIN_RATE_SHARE * CAMERA_RATE_HZ
    is_model_slow = chunk_ms > MAX_PERIOD_SHARE * CHUNK_PERIOD_MS
    is_valid = not is_camera_slow and not is_model_slow
    driven_s = sum(span.end_ns - span.start_ns for span in spans) / NS_PER_S
    percent = 100 * sum(drive.cpu_s for drive in driven.drives) / driven_s
    period_ns = round(NS_PER_S / CONTROL_RATE_HZ)
    num_missed = sum(max(0, round(interval / period_ns) - 1) for interval in intervals_ns)
    camera = robot.cameras[0]
    what = f"{WHAT}, {len(robot.cameras)} cameras of {camera.width}x{camera.height}, {CONTROL_RATE_HZ:g} Hz"
    return [
        Row(f"{what}{'' if is_valid else ': does not count'}", percent, MAX_CPU_PERCENT, UNIT, is_valid),
        Row(f"  slowest camera as received, of {CAMERA_RATE_HZ} Hz{_note(is_camera_slow)}", rate_hz, None, "Hz"),
        Row(f"  between two chunks, of {CHUNK_PERIOD_MS} ms{_note(is_model_slow)}", chunk_ms, None, "ms"),
        Row("  times the policy fell to HOLD", num_drops, None, ""),
        Row("  longest time between two commands", max(intervals_ns, default=0) * MS_PER_NS or None, None, "ms"),
        Row(f"  control ticks missed, of {len(intervals_ns)}", num_missed if intervals_ns else None, 0, "ticks"),
    ]


def not_measured(why: str) -> list[Row]:
    """The row of a policy node that never got to drive."""
    return [Row(f"{WHAT}: not measured, {why}", None, MAX_CPU_PERCENT, UNIT)]


def _note(is_slow: bool) -> str:
    return ": too slow" if is_slow else ""


def _intervals_ns(times_ns: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """Between one and the next within each span."""
    kept = [sorted(t for t in times_ns if span.holds(t)) for span in spans]
    return [after - before for times in kept for before, after in pairwise(times)]


def _mean_ms(intervals_ns: Sequence[int]) -> float:
    """Infinite without an interval."""
    return sum(intervals_ns) / len(intervals_ns) * MS_PER_NS if intervals_ns else float("inf")
