"""The JSON of a replay: the same input gives the same bytes, but for what lies under ``times``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_ros.replay.baseline.pairs import Difference
from vla_ros.replay.judge.paired import PairedDifference
from vla_ros.replay.judge.summary import ErrorTable, PolicySummary
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
    document = {
        "verdict": verdict.word,
        "reasons": verdict.reasons,
        "policies": [_policy(summary) for summary in summaries],
        "differences": [vars(difference) for difference in paired],
        "baseline_differences": [{**vars(difference), "line": difference.line} for difference in from_baseline],
        "times": times or {},
    }
    return {name: _plain(value) for name, value in document.items()}


def _policy(summary: PolicySummary) -> dict[str, Any]:
    names = summary.joint_names
    incidents = summary.first_incidents.items()
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
        **{f"{kind}_events": count for kind, count in summary.num_incidents.items()},
        **{f"first_{kind}_events": [vars(found) for found in first] for kind, first in incidents},
        "latency_ms": {name: summary.latency_ms(q) for name, q in (("p50", 50), ("p99", 99), ("max", 100))},
        "interventions": [_by_name(vars(found), names) for found in summary.interventions],
        "worst": [
            {name: value for name, value in vars(one).items() if name not in ("replay", "chunk")}
            for one in summary.worst
        ],
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


def _by_name(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Arrays of ``values`` by joint."""
    return {key: _by_joint(names, value) if isinstance(value, np.ndarray) else value for key, value in values.items()}


def _plain(value: Any) -> Any:
    """Lists, dicts and scalars; floats with NUM_DIGITS significant digits, None where they are not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{NUM_DIGITS}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
