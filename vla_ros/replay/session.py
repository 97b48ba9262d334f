"""A whole replay: bags through one policy or two, judged, as a document for programs and a page for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.directory import find_device, load_policy
from vla_ros.replay.baseline.against import compare_with_baseline
from vla_ros.replay.baseline.pairs import Difference
from vla_ros.replay.baseline.provenance import Provenance, bags_by_name, machine_name, provenance
from vla_ros.replay.baseline.record import Baseline, make_baseline, stored_tolerances, write_baseline
from vla_ros.replay.judge.paired import PairedDifference, paired_differences
from vla_ros.replay.judge.summary import ErrorTable, PolicySummary, summarize
from vla_ros.replay.judge.verdict import (
    ASK_FOR_BASELINE,
    FAIL,
    Verdict,
    judge_alone,
    judge_by_baseline,
    judge_second,
)
from vla_ros.replay.offline import ReplayPolicy
from vla_ros.replay.records import Replay, wanted_mode
from vla_ros.replay.run import Progress, UnusableBag, replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig

MAX_POLICIES = 2
NUM_DIGITS = 9

MakeProgress = Callable[[str], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class SessionConfig:
    """``policies`` are one or two directories; ``driver`` says whose stretches of the bags count: policy, teleop or
    any; ``folder`` is where paths of bags begin."""

    bags: tuple[Path, ...]
    policies: tuple[Path, ...]
    robot: RobotConfig
    settings: ReplaySettings
    driver: str = "any"
    device: str = "cpu"
    num_threads: int = 1
    folder: Path = Path()

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown driver, one policy given twice, and fewer than one thread."""
        wanted_mode(self.driver)
        if self.num_threads < 1:
            raise ValueError(f"--threads is {self.num_threads}; expected at least 1")
        if len({policy.resolve() for policy in self.policies}) < len(self.policies):
            raise ValueError(f"policy {self.policies[0]} is given twice; expected two different ones")


@dataclass(frozen=True)
class ReplaySession:
    """``replays`` [num_policies][num_bags], of which one is looked at at a time, and what was found in them. ``origin``
    is of the first policy; ``unused`` bags, one line each, held nothing that could be replayed; ``drifts`` are policies
    whose golden case no longer holds."""

    config: SessionConfig
    replays: tuple[Sequence[Replay], ...]
    summaries: tuple[PolicySummary, ...]
    paired: tuple[PairedDifference, ...]
    origin: Provenance
    unused: tuple[str, ...]
    drifts: tuple[str, ...]

    @classmethod
    def of(
        cls,
        config: SessionConfig,
        replays: tuple[Sequence[Replay], ...],
        origin: Provenance,
        unused: Sequence[str],
        drifts: Sequence[str],
    ) -> Self:
        """What ``replays``, all of the same bags in one order, come to.

        Raises ValueError for policies that can't be compared, and where nothing is left to compare.
        """
        summaries = tuple(summarize(of_policy, config.driver) for of_policy in replays)
        paired = paired_differences(*replays, config.driver) if len(replays) == MAX_POLICIES else ()
        return cls(config, replays, summaries, paired, origin, tuple(unused), tuple(drifts))

    @property
    def recorded_s(self) -> float:
        """How long everything is that was replayed."""
        return sum(summary.recorded_s for summary in self.summaries)

    @property
    def problems(self) -> list[str]:
        """What was wrong with the bags, a line for each thing."""
        return [*self.unused, *self.summaries[0].problems]

    def judge(self, baseline: Baseline | None, renewed: str = "") -> tuple[Verdict, tuple[Difference, ...]]:
        """By a stored baseline, else by the other policy, else not at all; a policy whose golden case no longer holds
        fails. ``renewed`` names the baseline that was written instead of compared with."""
        differences: tuple[Difference, ...] = ()
        if baseline is not None:
            differences = compare_with_baseline(self.replays[0], self.origin, baseline)
            verdict = judge_by_baseline(differences)
        elif len(self.summaries) == MAX_POLICIES:
            verdict = judge_second(*self.summaries, self.paired)
        else:
            written = f"baseline {renewed} was written from this replay, which is not judged"
            verdict = judge_alone(self.summaries[0], written if renewed else ASK_FOR_BASELINE)
        if self.drifts:
            verdict = Verdict(FAIL, (*(verdict.reasons if verdict.word == FAIL else ()), *self.drifts))
        return verdict, differences

    def write_baseline(self, path: Path) -> None:
        """Store what the first policy did; the tolerances that a file had are kept."""
        write_baseline(path, make_baseline(self.replays[0], self.origin, stored_tolerances(path)))

    def document(self, verdict: Verdict, differences: Sequence[Difference]) -> dict[str, Any]:
        """What a report says, as plain values; unknown numbers are None. The same replays give the same document.

        ``mae_by_joint`` and ``command_mae_by_joint`` are in each joint's unit, ``mae``, ``mae_by_step`` and
        ``command_mae`` fractions of the joints' ranges, all against recorded commands; ``measured`` has the same
        against measured joints. ``limit_events`` counts commands that a limit bounded; ``first_limit_events`` are runs
        of them.
        """
        document = {
            "verdict": verdict.word,
            "reasons": verdict.reasons,
            "policies": [_policy(summary) for summary in self.summaries],
            "differences": [vars(difference) for difference in self.paired],
            "baseline_differences": [{**vars(difference), "line": difference.line} for difference in differences],
            "problems": self.problems,
        }
        return {name: _plain(value) for name, value in document.items()}


def load_replay_policy(name: str, policy_dir: Path, device: torch.device) -> ReplayPolicy:
    """A policy that drifted is replayed too: that is how it shows what it does. Raises ValueError as ``load_policy``
    does."""
    loaded = load_policy(policy_dir, device, refuse_drift=False)
    runner = PolicyRunner(loaded.policy, loaded.device)
    return ReplayPolicy(name, loaded.processor, lambda request: runner.run(request).actions, loaded.drift)


def replay_session(config: SessionConfig, make_progress: MakeProgress = lambda name: nullcontext()) -> ReplaySession:
    """Replay every bag with every policy; ``make_progress`` gives what hears of the progress of one, by its name.

    Raises ValueError for policies and a robot that don't belong together, for two bags of one name, and where no bag
    can be used at all.
    """
    torch.set_num_threads(config.num_threads)
    device = find_device(config.device, "--device")
    bags_by_name(config.bags)
    all_replays: list[tuple[Replay, ...]] = []
    bags, unused = config.bags, []
    policies = [load_replay_policy(*named, device) for named in policy_names(config.policies).items()]
    for policy in policies:
        replays = []
        for bag in bags:
            try:
                with make_progress(f"{bag.name}, {policy.name}") as progress:
                    replays.append(replay_bag(bag, config.robot, policy, config.settings, progress))
            except UnusableBag as error:
                unused.append(str(error))
        if not replays:
            raise ValueError("; ".join(unused))
        bags = tuple(Path(replay.bag) for replay in replays)
        all_replays.append(tuple(replays))
    of_all = tuple(tuple(one for one in replays if Path(one.bag) in bags) for replays in all_replays)
    cameras, machine = policies[0].processor.camera_names, machine_name(str(device), config.num_threads)
    origin = provenance(config.policies[0], bags, config.robot, cameras, config.settings.stored(), machine)
    drifts = [f"'{policy.name}': {policy.drift}" for policy in policies if policy.drift]
    return ReplaySession.of(config, of_all, origin, unused, drifts)


def policy_names(directories: Sequence[Path]) -> dict[str, Path]:
    """Each policy by its folder's name, or by its path where two have the same."""
    by_name = {directory.name: directory for directory in directories}
    return by_name if len(by_name) == len(directories) else {str(directory): directory for directory in directories}


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
        "resting_mae": summary.resting.overall,
        "resting_mae_by_joint": _by_joint(names, summary.resting.by_joint),
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
