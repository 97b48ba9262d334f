"""The JSON of a replay: the same input gives the same bytes, but for what lies under ``times``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_ros.replay.baseline.difference import Difference
from vla_ros.replay.judge.paired import PairedDifference
from vla_ros.replay.judge.summary import (
    BagEvent,
    ErrorTable,
    EventCount,
    Intervention,
    PolicySummary,
    WorstMoment,
)
from vla_ros.replay.judge.verdict import Verdict

NUM_DIGITS = 9


def replay_document(
    verdict: Verdict,
    summaries: Sequence[PolicySummary],
    paired: Sequence[PairedDifference] = (),
    from_baseline: Sequence[Difference] = (),
    times: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What ``--json`` writes, as plain values; unknown numbers are None. Only ``times`` (s) depends on the clock.

    ``mae_by_joint`` and ``command_mae_by_joint`` are in each joint's unit, ``mae``, ``mae_by_step`` and ``command_mae``
    fractions of the joints' ranges, all against recorded commands; ``measured`` has the same against measured joints.
    ``limit_events`` counts commands that a limit bounded; ``first_limit_events`` are runs of them.
    """
    return {
        "verdict": verdict.word,
        "reasons": list(verdict.reasons),
        "policies": [_plain(_policy(summary)) for summary in summaries],
        "differences": [_plain(vars(difference)) for difference in paired],
        "baseline_differences": [_plain(_difference(difference)) for difference in from_baseline],
        "times": _plain(times or {}),
    }


def _policy(summary: PolicySummary) -> dict[str, Any]:
    names = summary.joint_names
    latencies = summary.latencies
    return {
        "name": summary.name,
        "digest": summary.digest,
        "driver": summary.driver,
        "bags": summary.bags,
        "chunks": summary.num_chunks,
        "chunks_by_driver": summary.num_by_driver,
        "episodes": summary.num_episodes,
        **_errors(summary.commanded, names),
        "measured": _errors(summary.measured, names),
        "command_mae": summary.command_mae_overall,
        "command_mae_by_joint": _by_joint(names, summary.command_mae),
        "commands": summary.num_commands,
        "limit_events": summary.limit_events.count,
        "watchdog_events": summary.watchdog_events.count,
        "processor_events": summary.processor_events.count,
        "first_limit_events": _events(summary.limit_events),
        "first_watchdog_events": _events(summary.watchdog_events),
        "first_processor_events": _events(summary.processor_events),
        "latency_ms": {"p50": latencies.p50_ms, "p99": latencies.p99_ms, "max": latencies.max_ms},
        "interventions": [_intervention(found, names) for found in summary.interventions],
        "worst": [_moment(moment) for moment in summary.worst],
    }


def _errors(table: ErrorTable, names: Sequence[str]) -> dict[str, Any]:
    return {
        "mae": table.overall,
        "mae_by_joint": _by_joint(names, table.by_joint),
        "mae_fraction_by_joint": _by_joint(names, table.by_joint_fraction),
        "mae_by_step": table.by_step_fraction,
        "mae_by_step_and_joint": _by_joint(names, table.by_step.T),
    }


def _by_joint(names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _events(events: EventCount) -> list[dict[str, Any]]:
    return [_event(found) for found in events.first]


def _event(found: BagEvent) -> dict[str, Any]:
    event = found.event
    where = {"bag": found.bag, "time_s": found.time_s, "joint": event.joint}
    return {**where, "line": event.line, "num_times": event.num_times}


def _intervention(found: Intervention, names: Sequence[str]) -> dict[str, Any]:
    by_joint = {name: _by_joint(names, getattr(found, name)) for name in ("commanded", "measured", "offset")}
    plain = {name: getattr(found, name) for name in ("bag", "start_s", "duration_s", "num_chunks")}
    return {**plain, **by_joint, "largest": found.largest, "largest_joint": found.largest_joint}


def _moment(moment: WorstMoment) -> dict[str, Any]:
    return {name: value for name, value in vars(moment).items() if name != "chunk_index"}


def _difference(difference: Difference) -> dict[str, Any]:
    return {**vars(difference), "line": difference.line}


def _plain(value: Any) -> Any:
    """Lists, dicts and scalars; floats with NUM_DIGITS significant digits, None where they are not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{NUM_DIGITS}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
