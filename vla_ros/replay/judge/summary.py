"""What the replays of one policy come to: figures and findings, made by ``compare``, shown and stored elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.replay.averages import mean_of_known
from vla_ros.replay.records import Event


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


@dataclass(frozen=True)
class BagEvent:
    """An event of one bag, ``time_s`` after its start."""

    bag: str
    time_s: float
    event: Event


@dataclass(frozen=True)
class EventCount:
    """How many events of one kind there were, of limits how many commands they bounded; and the first of them."""

    count: int
    first: tuple[BagEvent, ...]


@dataclass(frozen=True)
class Latencies:
    """From the observation to the arrival of its chunk, in ms."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    all_ms: np.ndarray


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
    start_ns: int
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
    and ``command_mae_fraction`` [num_joints] the same as fractions of the ranges. ``num_by_driver`` counts the compared
    chunks by who drove (empty: not said). Events and interventions are of the whole bags: a limit counts, whoever
    drove.
    """

    name: str
    digest: str
    driver: str
    bags: tuple[str, ...]
    joint_names: tuple[str, ...]
    chunk_dt_s: float
    num_chunks: int
    num_by_driver: Mapping[str, int]
    num_episodes: int
    commanded: ErrorTable
    measured: ErrorTable
    num_commands: int
    command_mae: np.ndarray
    command_mae_fraction: np.ndarray
    limit_events: EventCount
    watchdog_events: EventCount
    processor_events: EventCount
    latencies: Latencies
    interventions: tuple[Intervention, ...]
    worst: tuple[WorstMoment, ...]

    @property
    def command_mae_overall(self) -> float:
        """As a fraction of the joints' ranges, a mean over joints; NaN where nothing was recorded."""
        return float(mean_of_known(self.command_mae_fraction))
