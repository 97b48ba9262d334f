"""A golden replay: what a policy made of some bags, kept to be compared with later."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.fingerprint import InputFingerprint
from vla_ros.replay.baseline.provenance import Provenance, bag_name
from vla_ros.replay.records import Incident, Replay, check_same_policy


@dataclass(frozen=True)
class Tolerances:
    """By how much a number may differ from the baseline's: other CPUs and libraries round differently.

    position        of any action of a chunk, rad or m
    position_rms    of one joint over all chunks of a bag, rad or m: rounding is different each time and averages out, a
                    changed weight shows
    command         of our command to any joint, rad or m
    state           of the normalised state
    image_rms       of what a model sees of a camera, RMS over pixels in levels of 255: libraries scale images alike to
                    within one level
    event_time_s    of a watchdog or a refusal
    limit_events    how many more or fewer commands to one joint may be bounded: some lie just on their limit
    """

    position: float = 1e-6
    position_rms: float = 2e-7
    command: float = 2e-5
    state: float = 1e-5
    image_rms: float = 0.6
    event_time_s: float = 0.05
    limit_events: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"tolerances.{name} is {value}; expected 0 or more")


@dataclass(frozen=True)
class ChunkRecord:
    """A chunk by its observation's time: ``positions`` [horizon, num_joints] and the input's fingerprint, or None where
    a file leaves them out to stay small. ``checksum`` is of the positions, to the last bit."""

    header_ns: int
    checksum: int
    positions: np.ndarray | None
    fingerprint: InputFingerprint | None


@dataclass(frozen=True)
class BagRecord:
    """One bag: ``commands`` are ours, ``limit_counts`` how many of them a limit bounded (by joint name; empty where it
    concerns no joint), ``events`` all others, ``num_events`` of them: a file keeps the first only."""

    name: str
    start_ns: int
    chunks: tuple[ChunkRecord, ...]
    commands: TimeSeries
    limit_counts: Mapping[str, int]
    events: tuple[Incident, ...]
    num_events: int


@dataclass(frozen=True)
class Baseline:
    """What one policy made of some bags, and what that was made of."""

    origin: Provenance
    joint_names: tuple[str, ...]
    bags: tuple[BagRecord, ...]
    tolerances: Tolerances


def make_baseline(replays: Sequence[Replay], origin: Provenance, tolerances: Tolerances = Tolerances()) -> Baseline:
    """Everything of ``replays`` that a baseline is compared by, bags by name.

    Raises ValueError where the replays are not of one policy.
    """
    check_same_policy(replays)
    bags = sorted((_record(replay) for replay in replays), key=lambda bag: bag.name)
    assert {bag.name for bag in bags} == set(origin.bags), "the origin is that of these bags"
    return Baseline(origin, replays[0].joint_names, tuple(bags), tolerances)


def _record(replay: Replay) -> BagRecord:
    limits: Counter[str] = Counter()
    for event in replay.events:
        if event.kind == "limit":
            limits[event.joint] += event.num_times
    events = tuple(event for event in replay.events if event.kind != "limit")
    return BagRecord(
        name=bag_name(replay.bag),
        start_ns=replay.start_ns,
        chunks=tuple(
            ChunkRecord(chunk.header_ns, _checksum(chunk.positions), chunk.positions, chunk.fingerprint)
            for chunk in replay.chunks
        ),
        commands=replay.commands,
        limit_counts=dict(sorted(limits.items())),
        events=events,
        num_events=len(events),
    )


def _checksum(positions: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(positions, np.float64).tobytes())
