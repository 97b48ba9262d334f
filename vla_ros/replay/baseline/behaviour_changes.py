"""What has changed in what a policy does with one bag, the first of each: chunks, commands, limits, watchdogs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from vla_ros.replay.baseline.difference import BEHAVIOUR, Difference
from vla_ros.replay.baseline.in_step import in_step
from vla_ros.replay.baseline.record import BagRecord, ChunkRecord, Tolerances
from vla_ros.replay.records import by_observation

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class ChunkPair:
    """The chunks of one observation, now and in the baseline."""

    got: ChunkRecord
    expected: ChunkRecord


class BehaviourComparison:
    """``got`` beside ``expected``, both of one bag and of ``joint_names``."""

    def __init__(
        self, got: BagRecord, expected: BagRecord, joint_names: tuple[str, ...], tolerances: Tolerances
    ) -> None:
        self._got, self._expected = got, expected
        self._joint_names, self._tolerances = joint_names, tolerances
        here, there = by_observation(got.chunks), by_observation(expected.chunks)
        self.pairs = tuple(ChunkPair(here[key], there[key]) for key in sorted(here.keys() & there.keys()))
        self._added = sorted(here.keys() - there.keys())
        self._missing = sorted(there.keys() - here.keys())
        self._comparable = [pair for pair in self.pairs if _has_positions(pair) and _is_same_shape(pair)]

    @property
    def largest_deviation(self) -> float:
        """Of any action of a chunk, in rad or m; 0 without chunks to compare."""
        return max((float(np.abs(_deviation(pair)).max(initial=0.0)) for pair in self._comparable), default=0.0)

    @property
    def first_inexact(self) -> Difference | None:
        """The first chunk that isn't the same to the last bit."""
        for pair in self.pairs:
            if pair.got.checksum != pair.expected.checksum:
                got, expected = (f"{side.checksum:08x}" for side in (pair.got, pair.expected))
                what = "a chunk differs, by less than the tolerance, on the same machine; CRC-32"
                return self._at(pair.got.header_ns, what, got, expected)
        return None

    def differences(self) -> tuple[Difference, ...]:
        """What is different beyond the tolerances, one of each kind."""
        return (
            *self._other_observations(),
            *self._shapes(),
            *self._positions(),
            *self._commands(),
            *self._limits(),
            *self._events(),
        )

    def _at(
        self, time_ns: int | None, what: str, got: float | str | None, expected: float | str | None, **more: str | float
    ) -> Difference:
        time_s = None if time_ns is None else (time_ns - self._expected.start_ns) / NS_PER_S
        bag = self._expected.name
        return Difference(BEHAVIOUR, what, got, expected, bag, time_ns, time_s, **more)  # type: ignore[arg-type]

    def _other_observations(self) -> Iterator[Difference]:
        if not self._added and not self._missing:
            return
        first = min((*self._added, *self._missing))
        sides = ("a chunk", None) if first in self._added else (None, "a chunk")
        what = f"the policy was asked about other observations, {len(self._missing)} fewer and {len(self._added)} more"
        yield self._at(first[0], what, *sides)

    def _shapes(self) -> Iterator[Difference]:
        for pair in self.pairs:
            if _has_positions(pair) and not _is_same_shape(pair):
                got, expected = (f"{len(side.positions)} actions" for side in (pair.got, pair.expected))
                yield self._at(pair.got.header_ns, "chunks have another length", got, expected)
                return

    def _positions(self) -> Iterator[Difference]:
        if not self._comparable:
            return
        deviations = np.stack([_deviation(pair) for pair in self._comparable])
        largest = np.abs(deviations).max(axis=(1, 2), initial=0.0)
        beyond = np.flatnonzero(largest > self._tolerances.position)
        rms = np.sqrt((deviations**2).mean(axis=(0, 1)))
        order = self._joint_order()
        if len(beyond):
            joint = self._joint_names[np.unravel_index(np.abs(deviations).argmax(), deviations.shape)[-1]]
            extent = f"{len(beyond)} of {len(largest)} chunks differ, by at most {largest.max():.3g} ('{joint}')"
            yield self._action(int(beyond[0]), deviations, f"{order}{extent}", self._tolerances.position)
        elif rms.max() > self._tolerances.position_rms:
            extent = (
                f"joint '{self._joint_names[rms.argmax()]}' differs over all {len(largest)} chunks by RMS "
                f"{rms.max():.3g}, at most {largest.max():.3g}"
            )
            yield self._action(int(largest.argmax()), deviations, extent, self._tolerances.position_rms)

    def _action(self, index: int, deviations: np.ndarray, extent: str, tolerance: float) -> Difference:
        """The worst action of one chunk."""
        step, j = np.unravel_index(np.abs(deviations[index]).argmax(), deviations[index].shape)
        pair = self._comparable[index]
        got, expected = (float(side.positions[step, j]) for side in (pair.got, pair.expected))
        what = f"action {step + 1} of a chunk ({extent})"
        return self._at(pair.got.header_ns, what, got, expected, joint=self._joint_names[j], tolerance=tolerance)

    def _joint_order(self) -> str:
        """Whether joints of the chunks have changed places: their steps, which don't depend on where the robot is."""
        got, expected = (
            np.concatenate([np.diff(getattr(pair, side).positions, axis=0) for pair in self._comparable])
            for side in ("got", "expected")
        )
        sources = in_step(got, expected)
        moved = [j for j, source in enumerate(sources) if source not in (None, j)]
        names = ", ".join(f"'{self._joint_names[j]}' moves as '{self._joint_names[sources[j]]}' did" for j in moved)
        return f"the joint order of the actions changed: {names}; " if moved else ""

    def _commands(self) -> Iterator[Difference]:
        got, expected = self._got.commands, self._expected.commands
        times_ns, rows, expected_rows = np.intersect1d(got.times_ns, expected.times_ns, return_indices=True)
        if len(times_ns) < len(expected):
            missing_ns = int(np.setdiff1d(expected.times_ns, times_ns)[0])
            yield self._at(missing_ns, f"{len(expected) - len(times_ns)} commands are missing", None, "a command")
        deviations = np.abs(got.values[rows] - expected.values[expected_rows])
        beyond = np.flatnonzero((deviations > self._tolerances.command).any(axis=1))
        if len(beyond):
            i, j = int(beyond[0]), int(deviations[beyond[0]].argmax())
            extent = f"{len(beyond)} of {len(times_ns)} commands differ, by at most {deviations.max():.3g}"
            yield self._at(
                int(times_ns[i]),
                f"command ({extent})",
                float(got.values[rows[i], j]),
                float(expected.values[expected_rows[i], j]),
                joint=self._joint_names[j],
                tolerance=self._tolerances.command,
            )

    def _limits(self) -> Iterator[Difference]:
        """How many; which is in the commands."""
        got, expected = self._got.limit_counts, self._expected.limit_counts
        for joint in sorted(got.keys() | expected.keys()):
            counts = got.get(joint, 0), expected.get(joint, 0)
            if abs(counts[0] - counts[1]) > self._tolerances.limit_events:
                numbers = {"joint": joint, "tolerance": self._tolerances.limit_events}
                yield self._at(None, "how many commands a limit bounded", str(counts[0]), str(counts[1]), **numbers)
                return

    def _events(self) -> Iterator[Difference]:
        """Watchdogs and refusals, one by one, as far as the baseline keeps them."""
        expected = self._expected.events
        kept = self._got.events[: len(expected)] if self._expected.num_events > len(expected) else self._got.events
        for here, there in zip_longest(kept, expected):
            if here and there and here.kind == there.kind and here.joint == there.joint:
                if abs(here.time_ns - there.time_ns) <= self._tolerances.event_time_s * NS_PER_S:
                    continue
            time_ns = min(event.time_ns for event in (here, there) if event)
            got, wanted = (f"{event.kind} '{event.line}'" if event else None for event in (here, there))
            what = f"watchdogs and refusals ({self._got.num_events}, were {self._expected.num_events})"
            yield self._at(time_ns, what, got, wanted)
            return


def _has_positions(pair: ChunkPair) -> bool:
    return pair.got.positions is not None and pair.expected.positions is not None


def _is_same_shape(pair: ChunkPair) -> bool:
    return pair.got.positions.shape == pair.expected.positions.shape


def _deviation(pair: ChunkPair) -> np.ndarray:
    return pair.got.positions - pair.expected.positions
