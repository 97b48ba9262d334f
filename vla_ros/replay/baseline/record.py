"""A golden replay: what a policy made of some bags, kept to be compared with later.

It is kept as text: whole numbers, a chunk on each line, so that a version control system shows what changed. One bag
takes up less than a megabyte, however long it is: of many chunks and commands only every n-th is kept.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.fingerprint import NUM_CHANNELS, SKETCH_SIZE, InputFingerprint
from vla_ros.replay.baseline.provenance import Provenance, bag_name
from vla_ros.replay.records import Incident, Replay
from vla_ros.strict import config_to_dict, explained, one_line, parse_config, parse_json, quoted, read_text

FORMAT = "vla_ros replay baseline 2"
RENEW = "restore it, or write it anew with --update-baseline"
# Numbers are written as whole multiples of these: rad or m, normalised values, levels of 255.
POSITION_UNIT, COMMAND_UNIT = 1e-7, 1e-6
INPUT_UNITS = {"state": 1e-6, "noise": 1e-6, "coarse": 1e-2, "sketch": 1e-2}
MAX_CHUNK_NUMBERS, MAX_COMMAND_NUMBERS = 50_000, 20_000
MAX_INPUTS, MAX_EVENTS = 20, 500
MAX_BYTES = 64 << 20


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


def make_baseline(
    replays: Sequence[Replay],
    origin: Provenance,
    tolerances: Tolerances = Tolerances(),
    thin: Callable[[BagRecord], BagRecord] | None = None,
) -> Baseline:
    """What a baseline says of ``replays``, which are of one policy, bags by name: of each what ``thin`` leaves of it,
    by default what a file keeps."""
    bags = sorted(((thin or thinned)(_record(replay)) for replay in replays), key=lambda bag: bag.name)
    assert {bag.name for bag in bags} == set(origin.bags), "the origin is that of these bags"
    return Baseline(origin, replays[0].joint_names, tuple(bags), tolerances)


def thinned(bag: BagRecord) -> BagRecord:
    """What a file keeps, so that it takes less than a megabyte."""
    num_numbers = sum(chunk.positions.size for chunk in bag.chunks if chunk.positions is not None)
    every_chunk = _stride(num_numbers, MAX_CHUNK_NUMBERS)
    every_command = _stride(bag.commands.values.size, MAX_COMMAND_NUMBERS)
    with_input = [i for i, chunk in enumerate(bag.chunks) if chunk.fingerprint is not None]
    with_input = with_input[:: _stride(len(with_input), MAX_INPUTS)]
    chunks = (
        replace(
            chunk,
            positions=chunk.positions if i % every_chunk == 0 else None,
            fingerprint=chunk.fingerprint if i in with_input else None,
        )
        for i, chunk in enumerate(bag.chunks)
    )
    commands = TimeSeries(bag.commands.times_ns[::every_command], bag.commands.values[::every_command])
    return replace(bag, chunks=tuple(chunks), commands=commands, events=bag.events[:MAX_EVENTS])


def _stride(count: int, most: int) -> int:
    return max(1, -(-count // most))


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


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write ``baseline``. Raises ValueError where the file cannot be written, or would be too large to be
    read."""
    document = {
        "format": FORMAT,
        "tolerances": config_to_dict(baseline.tolerances),
        "machine": baseline.origin.machine,
        "policy_files": dict(baseline.origin.policy_files),
        "settings": dict(baseline.origin.settings),
        "joint_names": list(baseline.joint_names),
        "camera_names": list(baseline.origin.camera_names),
        "bags": [_bag_document(bag, baseline.origin.bags[bag.name]) for bag in baseline.bags],
    }
    text = "".join(_lines(document)) + "\n"
    if len(text) > MAX_BYTES:
        count = f"{len(baseline.bags)} bags take {len(text) >> 20} MB; expected at most {MAX_BYTES >> 20}"
        raise ValueError(f"baseline {path}: {count}: make one of fewer bags")
    with explained(f"baseline {path}: ", OSError, after="; give a file that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read_baseline(path: Path) -> Baseline:
    """Raises ValueError, in one line that names the file, where it is missing, not a baseline, or damaged."""
    missing = explained(f"baseline {path}: ", OSError, after="; --update-baseline writes one")
    with missing, explained(f"baseline {path}: not valid JSON (", after=f"); {RENEW}"):
        document = parse_json(read_text(path, MAX_BYTES))
    found = document.get("format") if isinstance(document, dict) else type(document).__name__
    if found != FORMAT:
        raise ValueError(f"baseline {path}: format is {quoted(repr(found))}; expected '{FORMAT}': {RENEW}")
    tolerances = _read_tolerances(path, document)
    try:
        names = tuple(document["joint_names"])
        bags = document["bags"]
        origin = Provenance(
            policy_files=dict(document["policy_files"]),
            bags={bag["name"]: bag["digest"] for bag in bags},
            settings=dict(document["settings"]),
            camera_names=tuple(document["camera_names"]),
            machine=str(document["machine"]),
        )
        return Baseline(origin, names, tuple(_read_bag(bag, len(names)) for bag in bags), tolerances)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"baseline {path}: damaged ({what}); {RENEW}") from error


def stored_tolerances(path: Path) -> Tolerances:
    """Those of the baseline that ``path`` holds, so that renewing it keeps them; the usual ones where it holds none.

    Raises ValueError for tolerances that are damaged.
    """
    try:
        document = parse_json(read_text(path, MAX_BYTES))
    except (OSError, ValueError):
        return Tolerances()
    return _read_tolerances(path, document) if isinstance(document, dict) else Tolerances()


def _read_tolerances(path: Path, document: dict[str, Any]) -> Tolerances:
    with explained(f"baseline {path}: ", after="; fix its tolerances"):
        return parse_config(Tolerances, document.get("tolerances", {}), "tolerances")


def _bag_document(bag: BagRecord, digest: str) -> dict[str, Any]:
    start_ns = bag.start_ns
    return {
        "name": bag.name,
        "digest": digest,
        "start_ns": start_ns,
        "limit_counts": dict(bag.limit_counts),
        "num_events": bag.num_events,
        "events": [[e.time_ns - start_ns, e.kind, e.joint, e.line] for e in bag.events],
        "inputs": [_input_document(i, one.fingerprint) for i, one in enumerate(bag.chunks) if one.fingerprint],
        "chunks": [_chunk_row(chunk, start_ns) for chunk in bag.chunks],
        "commands": [
            [int(time_ns) - start_ns, *_whole(row, COMMAND_UNIT)]
            for time_ns, row in zip(bag.commands.times_ns, bag.commands.values, strict=True)
        ],
    }


def _chunk_row(chunk: ChunkRecord, start_ns: int) -> list[int]:
    """When it was observed after the bag's start, its checksum, then all positions, unless they are left out."""
    positions = () if chunk.positions is None else _whole(chunk.positions, POSITION_UNIT)
    return [chunk.header_ns - start_ns, chunk.checksum, *positions]


def _input_document(index: int, given: InputFingerprint) -> dict[str, Any]:
    return {
        "chunk": index,
        "image_grid": [n for grid in given.image_grid for n in grid],
        **{name: getattr(given, name) for name in ("patch_length", "num_tokens", "tokens", "layout")},
        **{name: _whole(getattr(given, name), unit) for name, unit in INPUT_UNITS.items()},
    }


def _whole(values: np.ndarray, unit: float) -> list[int]:
    return np.rint(values / unit).astype(np.int64).ravel().tolist()


def _read_bag(document: dict[str, Any], num_joints: int) -> BagRecord:
    start_ns = int(document["start_ns"])
    inputs = {int(item["chunk"]): _read_input(item) for item in document["inputs"]}
    chunks = tuple(
        ChunkRecord(
            header_ns=start_ns + int(row[0]),
            checksum=int(row[1]),
            positions=_numbers(row[2:], POSITION_UNIT, (-1, num_joints)) if len(row) > 2 else None,
            fingerprint=inputs.get(i),
        )
        for i, row in enumerate(document["chunks"])
    )
    commands = document["commands"]
    return BagRecord(
        name=document["name"],
        start_ns=start_ns,
        chunks=chunks,
        commands=TimeSeries(
            np.array([start_ns + int(row[0]) for row in commands], np.int64),
            _numbers([number for row in commands for number in row[1:]], COMMAND_UNIT, (len(commands), num_joints)),
        ),
        limit_counts={joint: int(count) for joint, count in document["limit_counts"].items()},
        events=tuple(Incident(start_ns + time, kind, line, joint) for time, kind, joint, line in document["events"]),
        num_events=int(document["num_events"]),
    )


def _read_input(item: dict[str, Any]) -> InputFingerprint:
    grid = np.array(item["image_grid"], np.int64).reshape(-1, 3)
    shapes = {"coarse": (len(grid), -1, NUM_CHANNELS), "sketch": (len(grid), SKETCH_SIZE), "state": -1, "noise": -1}
    return InputFingerprint(
        image_grid=tuple((t, height, width) for t, height, width in grid.tolist()),
        patch_length=int(item["patch_length"]),
        num_tokens=int(item["num_tokens"]),
        tokens=str(item["tokens"]),
        layout=str(item["layout"]),
        **{name: _numbers(item[name], unit, shapes[name]) for name, unit in INPUT_UNITS.items()},
    )


def _numbers(values: Sequence[int], unit: float, shape: int | tuple[int, ...]) -> np.ndarray:
    return np.array(values, np.float64).reshape(shape) * unit


def _lines(value: Any, indent: str = "") -> Iterator[str]:
    """JSON with a line for every value but lists of plain ones, which take one line each."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    is_plain = not any(isinstance(item, (dict, list)) for item in items)
    if not items or (is_plain and isinstance(value, list)):
        yield json.dumps(value, separators=(",", ":"))
        return
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield opening
    for i, (key, item) in enumerate(zip(keys, items, strict=True)):
        yield f"{',' if i else ''}\n{indent} {key}"
        yield from _lines(item, indent + " ")
    yield f"\n{indent}{closing}"
