"""What the report is made of. Errors are means of absolute differences, NaN where there was nothing to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.replay.records import Replay, ReplayedChunk

MAX_POLICIES = 2


@dataclass(frozen=True)
class Errors:
    """``by_joint`` ``[num_joints]`` in each joint's unit; ``by_step`` ``[horizon]``, by action of the chunk, as
    fractions of the joints' ranges."""

    by_joint: np.ndarray
    by_step: np.ndarray


@dataclass(frozen=True)
class Intervention:
    """A human drove for ``duration_s`` from ``start_s`` on, in seconds since the start of ``bag``.

    ``mae_by_joint`` ``[num_joints]`` is how far the policy's chunks lie from what the human then did,
    ``offset_by_joint`` the same with its sign (the policy's less the human's), both in each joint's unit.
    """

    bag: str
    start_s: float
    duration_s: float
    num_chunks: int
    mae_by_joint: np.ndarray
    offset_by_joint: np.ndarray


@dataclass(frozen=True)
class CameraImage:
    """``image`` is RGB uint8 ``[height, width, 3]``, taken at ``time_ns``."""

    camera: str
    time_ns: int
    image: np.ndarray


@dataclass(frozen=True)
class Moment:
    """A chunk of ``bag`` that lies far from what the robot did, by ``error``, a fraction of the joints' ranges."""

    bag: str
    chunk: ReplayedChunk
    error: float
    images: tuple[CameraImage, ...]


@dataclass(frozen=True)
class PolicyResult:
    """One policy: its ``replays``, at least one, each of another bag, and what they came to.

    ``from_commands`` and ``from_motion``: its chunks against what the robot was commanded and where it then went.
    ``command_error`` ``[num_joints]``: our loop's commands against the recorded ones, in each joint's unit.
    ``num_limit_events`` are commands that a limit bounded. ``latencies_ms`` ``[num_answers]``: from the observation to
    the answer. ``moments``: the worst first.
    """

    name: str
    digest: str
    replays: tuple[Replay, ...]
    num_chunks: int
    from_commands: Errors
    from_motion: Errors
    command_error: np.ndarray
    num_limit_events: int
    num_watchdog_events: int
    num_processor_events: int
    latencies_ms: np.ndarray
    interventions: tuple[Intervention, ...]
    moments: tuple[Moment, ...]


@dataclass(frozen=True)
class Difference:
    """``second - first`` of ``quantity``, said in words, in ``unit`` (``%`` is of the joints' ranges; empty for a
    count): its 95 % interval goes from ``low`` to ``high``, NaN where ``num_episodes`` are too few. Less is better in
    all of them."""

    quantity: str
    unit: str
    first: float
    second: float
    low: float
    high: float
    num_episodes: int


@dataclass(frozen=True)
class ReportInput:
    """Everything the report shows.

    ``verdict`` is ``pass``, ``fail``, or whatever else there is to say in a word or two, and ``reasons`` why;
    ``settings`` say how it was replayed. ``policies`` are one or two, replayed on the same bags in the same order;
    chunks count where one of ``compared_drivers`` drove. ``differences`` are between the two.
    """

    title: str
    verdict: str
    reasons: tuple[str, ...]
    settings: Mapping[str, str]
    policies: tuple[PolicyResult, ...]
    compared_drivers: tuple[str, ...]
    differences: tuple[Difference, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError where the policies are none, too many, or of different bags."""
        if not 1 <= len(self.policies) <= MAX_POLICIES:
            raise ValueError(f"a report of {len(self.policies)} policies; expected one or two")
        bags = [[replay.bag for replay in policy.replays] for policy in self.policies]
        if not bags[0]:
            raise ValueError("a report of no bag; expected at least one")
        if bags[-1] != bags[0]:
            raise ValueError(f"the policies were replayed on {bags[0]} and {bags[-1]}; expected the same bags for both")
