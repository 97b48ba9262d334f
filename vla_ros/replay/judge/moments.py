"""What people should look at: where a human drove, and where a policy was furthest from what was commanded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.recordings.series import mean_of_known
from vla_ros.replay.records import COMMANDED, MEASURED, Replay, ReplayedChunk, Stretch, chunks_of
from vla_ros.units import NS_PER_S

NUM_WORST = 6
WORST_APART_S = 1.0


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

    Furthest off is ``joint`` at ``step`` (0 is the first), by ``joint_error`` in its unit; ``time_s`` is since the
    bag's start.
    """

    bag: str
    replay: Replay
    chunk: ReplayedChunk
    header_ns: int
    time_s: float
    error: float
    joint: str
    step: int
    joint_error: float


def intervention(replay: Replay, human: Stretch) -> Intervention:
    """What the policy wanted while a human drove."""
    chunks = [chunk for chunk in replay.chunks if human.start_ns <= chunk.header_ns < human.end_ns]
    offsets, measured = (
        np.stack([chunk.offset_from(target) for chunk in chunks] or [np.zeros((0, len(replay.joint_names)))])
        for target in (COMMANDED, MEASURED)
    )
    errors = np.abs(offsets)
    largest, joint = np.nan, ""
    if np.isfinite(errors).any():
        index = np.unravel_index(np.nanargmax(errors / replay.joint_ranges), errors.shape)
        largest, joint = float(errors[index]), replay.joint_names[index[-1]]
    return Intervention(
        bag=replay.bag,
        start_s=replay.seconds(human.start_ns),
        duration_s=(human.end_ns - human.start_ns) / NS_PER_S,
        num_chunks=len(chunks),
        commanded=mean_of_known(errors, axis=(0, 1)),
        measured=mean_of_known(np.abs(measured), axis=(0, 1)),
        offset=mean_of_known(offsets, axis=(0, 1)),
        largest=largest,
        largest_joint=joint,
    )


def worst_moments(replays: Sequence[Replay], driver: str) -> tuple[WorstMoment, ...]:
    """The largest errors first; no two within ``WORST_APART_S`` of each other, which would be the same moment."""
    moments = [
        _moment(replay, chunk)
        for replay in replays
        for chunk in chunks_of(replay, driver)
        if np.isfinite(chunk.commanded).any()
    ]
    chosen: list[WorstMoment] = []
    for moment in sorted(moments, key=lambda moment: -moment.error):
        is_new = all(
            moment.bag != other.bag or abs(moment.header_ns - other.header_ns) >= WORST_APART_S * NS_PER_S
            for other in chosen
        )
        if is_new:
            chosen.append(moment)
    return tuple(chosen[:NUM_WORST])


def _moment(replay: Replay, chunk: ReplayedChunk) -> WorstMoment:
    errors = np.abs(chunk.offset_from(COMMANDED))
    fractions = errors / replay.joint_ranges
    step, joint = np.unravel_index(np.nanargmax(fractions), errors.shape)
    return WorstMoment(
        bag=replay.bag,
        replay=replay,
        chunk=chunk,
        header_ns=chunk.header_ns,
        time_s=replay.seconds(chunk.header_ns),
        error=float(mean_of_known(fractions)),
        joint=replay.joint_names[joint],
        step=int(step),
        joint_error=float(errors[step, joint]),
    )
