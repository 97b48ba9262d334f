"""What the replays of one policy come to: figures and findings, made by ``summarize``, shown and stored elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.replay.series import mean_of_known

INCIDENT_KINDS = ("limit", "watchdog", "processor")


@dataclass(frozen=True)
class ErrorTable:
    """Mean absolute errors, NaN where nothing was there to compare with.

    ``by_joint`` [num_joints] and ``by_step`` [horizon, num_joints] (by step ahead) are in each joint's unit;
    ``by_joint_fraction`` [num_joints] and ``by_step_fraction`` [horizon], a mean over joints, are fractions of the
    joints' ranges, and so is ``overall``.
    """

    by_joint: np.ndarray
    by_step: np.ndarray
    by_joint_fraction: np.ndarray
    by_step_fraction: np.ndarray

    @property
    def overall(self) -> float:
        return float(mean_of_known(self.by_joint_fraction))

    @property
    def is_known(self) -> bool:
        """Whether anything was there to compare with."""
        return bool(np.isfinite(self.by_joint).any())


@dataclass(frozen=True)
class BagIncident:
    """An incident of one bag, ``time_s`` after its start: ``num_times`` of them in a row, as ``Incident`` has it."""

    bag: str
    time_s: float
    joint: str
    line: str
    num_times: int


@dataclass(frozen=True)
class Intervention:
    """A human drove: what the policy would have done lay this far from what they did.

    ``start_s`` is since the bag's start. Arrays are [num_joints], in each joint's unit, NaN where nothing was there:
    ``commanded`` and ``measured`` mean absolute errors against what the human commanded and where the robot then was,
    ``offset`` the first of them with its sign, the policy's less the human's. ``largest`` is the largest error against
    the commands, in the unit of ``largest_joint`` and chosen by fraction of its range; NaN and empty where nothing was
    there.
    """

    bag: str
    start_s: float
    duration_s: float
    num_chunks: int
    commanded: np.ndarray
    measured: np.ndarray
    offset: np.ndarray
    largest: float
    largest_joint: str


@dataclass(frozen=True)
class WorstMoment:
    """A chunk far from what the robot was commanded: ``error`` is its mean, a fraction of the joints' ranges.

    Furthest off is ``joint`` at ``step`` (0 is the first), by ``joint_error`` in its unit. ``chunk_index`` is its place
    in the replay's chunks, ``time_s`` since the bag's start.
    """

    bag: str
    header_ns: int
    time_s: float
    chunk_index: int
    error: float
    joint: str
    step: int
    joint_error: float


@dataclass(frozen=True)
class PolicySummary:
    """One policy over some bags, as far as the recorded driver is ``driver`` (``policy``, ``teleop`` or ``any``).

    ``commanded`` and ``measured`` hold chunks against what the robot was then commanded and where it then was;
    ``command_mae`` [num_joints] our commands against the recorded ones, in each joint's unit, over ``num_commands``,
    and ``command_mae_overall`` their mean as a fraction of the ranges. ``ahead_s`` [horizon] is when each action is due
    after its observation; ``num_by_driver`` counts the compared chunks by who drove (empty: not said); ``latencies_ms``
    [num_chunks] are from the observation to the arrival of its chunk. Incidents and interventions are of the whole
    bags: a limit counts, whoever drove. ``num_incidents`` counts them by kind, of limits the commands they bounded;
    ``first_incidents`` are the first of them.
    """

    name: str
    digest: str
    driver: str
    bags: tuple[str, ...]
    joint_names: tuple[str, ...]
    ahead_s: np.ndarray
    num_chunks: int
    num_by_driver: Mapping[str, int]
    num_episodes: int
    commanded: ErrorTable
    measured: ErrorTable
    num_commands: int
    command_mae: np.ndarray
    command_mae_overall: float
    num_incidents: Mapping[str, int]
    first_incidents: Mapping[str, tuple[BagIncident, ...]]
    latencies_ms: np.ndarray
    interventions: tuple[Intervention, ...]
    worst: tuple[WorstMoment, ...]

    @property
    def errors(self) -> ErrorTable:
        """Against the commands where a bag has them, else against the motion."""
        return self.commanded if self.commanded.is_known else self.measured

    def latency_ms(self, percent: float) -> float:
        """So many percent of the answers came within this time."""
        return float(np.percentile(self.latencies_ms, percent))
