"""A replay beside a golden one: what changed, told apart into bags, settings, input, behaviour and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.behaviour_changes import behaviour_changes, first_inexact
from vla_ros.replay.baseline.input_changes import input_changes
from vla_ros.replay.baseline.pairs import BAG, FILE, SETTING, Difference, pair_bags
from vla_ros.replay.baseline.provenance import Provenance
from vla_ros.replay.baseline.record import BagRecord, Baseline, ChunkRecord, make_baseline, thinned
from vla_ros.replay.records import Replay, by_observation

DIGEST_LENGTH = 12
ELSEWHERE = "what it does is above"


def compare_with_baseline(replays: Sequence[Replay], origin: Provenance, baseline: Baseline) -> tuple[Difference, ...]:
    """Everything that is not as in ``baseline``; nothing where all is within its tolerances.

    What explains comes before what it explains: other bags, settings, input, behaviour; the policy's files are last. So
    without any of the others the first difference has a bag, a time, a joint and two numbers.
    """
    now = make_baseline(replays, origin, thin=_as_far_as(baseline))
    found = [*_bags(now, baseline), *_settings(now, baseline)]
    if set(now.joint_names) != set(baseline.joint_names):
        return (*found, *_files(now, baseline, "nothing else is compared: the joints are others"))
    bags = pair_bags(now, baseline)
    if not bags:
        return (*found, *_files(now, baseline, "nothing else is compared: no bag is the baseline's"))
    shown = [*input_changes([pair for bag in bags for pair in bag.chunks], baseline)]
    shown += [difference for bag in bags for difference in behaviour_changes(bag, baseline)]
    if shown:
        return (*found, *shown, *_files(now, baseline, ELSEWHERE))
    if now.origin.machine != baseline.origin.machine or now.joint_names != baseline.joint_names:
        deviation = max((np.abs(pair.deviation).max(initial=0.0) for bag in bags for pair in bag.comparable), default=0)
        effect = f"the policy sees and does the same, chunks to within {deviation:.1g}"
        return (*found, *_files(now, baseline, effect))
    # Whether other files do anything shows in the last bits, for on one machine rounding repeats itself.
    inexact = first_inexact(bags)
    if inexact is None:
        return (*found, *_files(now, baseline, "the policy sees and does exactly the same"))
    files = tuple(_files(now, baseline, ELSEWHERE))
    return (*found, inexact, *files) if files else tuple(found)


def _as_far_as(baseline: Baseline) -> Callable[[BagRecord], BagRecord]:
    """Leaves of a bag what ``baseline`` has of it, so that many take no more memory than they take there."""
    by_name = {bag.name: bag for bag in baseline.bags}

    def thin(bag: BagRecord) -> BagRecord:
        expected = by_name.get(bag.name)
        if expected is None:
            return thinned(bag)
        there = by_observation(expected.chunks)
        chunks = (_beside(chunk, there.get(key)) for key, chunk in by_observation(bag.chunks).items())
        is_there = np.isin(bag.commands.times_ns, expected.commands.times_ns)
        commands = TimeSeries(bag.commands.times_ns[is_there], bag.commands.values[is_there])
        return replace(bag, chunks=tuple(chunks), commands=commands)

    return thin


def _beside(chunk: ChunkRecord, expected: ChunkRecord | None) -> ChunkRecord:
    has = {name: getattr(expected, name, None) is not None for name in ("positions", "fingerprint")}
    return replace(chunk, **{name: None for name, is_there in has.items() if not is_there})


def _bags(now: Baseline, baseline: Baseline) -> Iterator[Difference]:
    here, there = now.origin.bags, baseline.origin.bags
    for name in _changed(here, there):
        if name not in here:
            yield Difference(BAG, "not replayed", None, "a replay of it", name)
        elif name not in there:
            yield Difference(BAG, "not in the baseline", "a replay of it", None, name)
        else:
            yield Difference(BAG, "another content, SHA-256", _short(here[name]), _short(there[name]), name)


def _settings(now: Baseline, baseline: Baseline) -> Iterator[Difference]:
    here, there = (
        {
            **side.origin.settings,
            "cameras of the policy": ", ".join(side.origin.camera_names),
            "joints": ", ".join(side.joint_names),
        }
        for side in (now, baseline)
    )
    for name in _changed(here, there):
        values = (None if side.get(name) is None else str(side[name]) for side in (here, there))
        yield Difference(SETTING, name, *values)


def _files(now: Baseline, baseline: Baseline, effect: str) -> Iterator[Difference]:
    here, there = now.origin.policy_files, baseline.origin.policy_files
    for name in _changed(here, there):
        what = "changed" if name in here and name in there else "added" if name in here else "missing"
        digests = (_short(side[name]) if name in side else None for side in (here, there))
        yield Difference(FILE, f"'{name}' of the policy directory {what} ({effect}); SHA-256", *digests)


def _changed(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    return sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))


def _short(digest: str) -> str:
    return digest[:DIGEST_LENGTH]
