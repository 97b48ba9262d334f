"""What has changed in what a policy does with one bag, the first of each: chunks, commands, limits, watchdogs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from vla_ros.replay.baseline.pairs import BEHAVIOUR, BagPair, ChunkPair, Difference, in_step
from vla_ros.replay.baseline.record import Baseline, Tolerances
from vla_ros.units import NS_PER_S


def behaviour_changes(bag: BagPair, baseline: Baseline) -> Iterator[Difference]:
    """What is different beyond the tolerances, one of each kind."""
    yield from _observations(bag)
    yield from _lengths(bag)
    yield from _positions(bag, baseline)
    yield from _commands(bag, baseline)
    yield from _limits(bag, baseline.tolerances)
    yield from _stops(bag, baseline.tolerances)


def first_inexact(bags: list[BagPair]) -> Difference | None:
    """The first chunk that isn't the same to the last bit."""
    pair = next((p for bag in bags for p in bag.chunks if p.got.checksum != p.expected.checksum), None)
    if pair is None:
        return None
    got, expected = (f"{side.checksum:08x}" for side in (pair.got, pair.expected))
    what = "a chunk differs, by less than the tolerance, on the same machine; CRC-32"
    return pair.differ(BEHAVIOUR, what, got, expected)


def _observations(bag: BagPair) -> Iterator[Difference]:
    if not bag.added and not bag.missing:
        return
    first_ns = min((*bag.added, *bag.missing))
    sides = ("a chunk", None) if first_ns in bag.added else (None, "a chunk")
    counts = f"{len(bag.missing)} fewer and {len(bag.added)} more"
    yield bag.differ(BEHAVIOUR, first_ns, f"the policy was asked about other observations, {counts}", *sides)


def _lengths(bag: BagPair) -> Iterator[Difference]:
    others = (p for p in bag.chunks if p.has_positions and p.got.positions.shape != p.expected.positions.shape)
    for pair in list(others)[:1]:
        got, expected = (f"{len(side.positions)} actions" for side in (pair.got, pair.expected))
        yield pair.differ(BEHAVIOUR, "chunks have another length", got, expected)


def _positions(bag: BagPair, baseline: Baseline) -> Iterator[Difference]:
    pairs, names, tolerances = bag.comparable, baseline.joint_names, baseline.tolerances
    if not pairs:
        return
    deviations = np.abs([pair.deviation for pair in pairs])
    largest = deviations.max(axis=(1, 2), initial=0.0)
    beyond = np.flatnonzero(largest > tolerances.position)
    rms = np.sqrt((deviations**2).mean(axis=(0, 1)))
    if len(beyond):
        joint = names[np.unravel_index(deviations.argmax(), deviations.shape)[-1]]
        extent = f"{len(beyond)} of {len(largest)} chunks differ, by at most {largest.max():.3g} ('{joint}')"
        yield _action(pairs[beyond[0]], names, _joint_order(pairs, names) + extent, tolerances.position)
    elif rms.max() > tolerances.position_rms:
        extent = (
            f"joint '{names[rms.argmax()]}' differs over all {len(largest)} chunks by RMS {rms.max():.3g}, at most "
            f"{largest.max():.3g}"
        )
        yield _action(pairs[largest.argmax()], names, extent, tolerances.position_rms)


def _action(pair: ChunkPair, names: tuple[str, ...], extent: str, tolerance: float) -> Difference:
    """The worst action of one chunk."""
    step, j = np.unravel_index(np.abs(pair.deviation).argmax(), pair.deviation.shape)
    got, expected = (float(side.positions[step, j]) for side in (pair.got, pair.expected))
    what = f"action {step + 1} of a chunk ({extent})"
    return pair.differ(BEHAVIOUR, what, got, expected, joint=names[j], tolerance=tolerance)


def _joint_order(pairs: list[ChunkPair], names: tuple[str, ...]) -> str:
    """Whether joints of the chunks have changed places: their steps, which don't depend on where the robot is."""
    got, expected = (
        np.concatenate([np.diff(side.positions, axis=0) for side in sides])
        for sides in zip(*((pair.got, pair.expected) for pair in pairs), strict=True)
    )
    moved = [(j, source) for j, source in enumerate(in_step(got, expected)) if source not in (None, j)]
    said = ", ".join(f"'{names[j]}' moves as '{names[source]}' did" for j, source in moved)
    return f"the joint order of the actions changed: {said}; " if moved else ""


def _commands(bag: BagPair, baseline: Baseline) -> Iterator[Difference]:
    got, expected, tolerance = bag.got.commands, bag.expected.commands, baseline.tolerances.command
    times_ns, rows, expected_rows = np.intersect1d(got.times_ns, expected.times_ns, return_indices=True)
    if len(times_ns) < len(expected):
        missing_ns = int(np.setdiff1d(expected.times_ns, times_ns)[0])
        what = f"{len(expected) - len(times_ns)} commands are missing"
        yield bag.differ(BEHAVIOUR, missing_ns, what, None, "a command")
    ours, theirs = got.values[rows], expected.values[expected_rows]
    deviations = np.abs(ours - theirs)
    beyond = np.flatnonzero((deviations > tolerance).any(axis=1))
    if len(beyond):
        i, j = beyond[0], deviations[beyond[0]].argmax()
        what = f"command ({len(beyond)} of {len(times_ns)} commands differ, by at most {deviations.max():.3g})"
        place = {"joint": baseline.joint_names[j], "tolerance": tolerance}
        yield bag.differ(BEHAVIOUR, int(times_ns[i]), what, float(ours[i, j]), float(theirs[i, j]), **place)


def _limits(bag: BagPair, tolerances: Tolerances) -> Iterator[Difference]:
    """How many; which is in the commands."""
    got, expected = bag.got.limit_counts, bag.expected.limit_counts
    for joint in sorted(got.keys() | expected.keys()):
        counts = got.get(joint, 0), expected.get(joint, 0)
        if abs(counts[0] - counts[1]) > tolerances.limit_events:
            place = {"joint": joint, "tolerance": tolerances.limit_events}
            yield bag.differ(BEHAVIOUR, None, "how many commands a limit bounded", *map(str, counts), **place)
            return


def _stops(bag: BagPair, tolerances: Tolerances) -> Iterator[Difference]:
    """Watchdogs and refusals, one by one, as far as the baseline keeps them."""
    got, expected = bag.got, bag.expected
    kept = got.events[: len(expected.events)] if expected.num_events > len(expected.events) else got.events
    for here, there in zip_longest(kept, expected.events):
        if here and there and here.kind == there.kind and here.joint == there.joint:
            if abs(here.time_ns - there.time_ns) <= tolerances.event_time_s * NS_PER_S:
                continue
        time_ns = min(event.time_ns for event in (here, there) if event)
        sides = (f"{event.kind} '{event.line}'" if event else None for event in (here, there))
        what = f"watchdogs and refusals ({got.num_events}, were {expected.num_events})"
        yield bag.differ(BEHAVIOUR, time_ns, what, *sides)
        return
