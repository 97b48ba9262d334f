"""A replay as plain values and arrays and back, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.fingerprint import InputFingerprint
from vla_ros.replay.records import Incident, Replay, ReplayedChunk, Stretch

SERIES = ("commands", "recorded_commands", "joints")
PLAIN = ("bag", "policy", "digest", "start_ns", "end_ns", "assumed_latency_ms")
CHUNK_PLAIN = ("header_ns", "asked_ns", "arrived_ns", "driver", "episode")
CHUNK_ARRAYS = ("due_ns", "positions", "commanded", "measured")
SEEN_PLAIN = ("patch_length", "num_tokens", "tokens", "layout")
SEEN_ARRAYS = ("coarse", "sketch", "state", "noise")

Arrays = dict[str, np.ndarray]


def pack(replay: Replay) -> tuple[dict[str, Any], Arrays]:
    """Values for JSON, and arrays by name; ``unpack`` is the inverse."""
    drivers, which = np.unique(replay.command_drivers, return_inverse=True)
    chunks, seen = replay.chunks, [chunk.fingerprint for chunk in replay.chunks]
    values = {name: getattr(replay, name) for name in PLAIN} | {
        "joint_names": list(replay.joint_names),
        "episodes": [astuple(stretch) for stretch in replay.episodes],
        "modes": [astuple(stretch) for stretch in replay.modes],
        "events": [astuple(event) for event in replay.events],
        "problems": list(replay.problems),
        "command_drivers": drivers.tolist(),
        "chunks": {name: [getattr(chunk, name) for chunk in chunks] for name in CHUNK_PLAIN},
        "seen": {name: [getattr(one, name) for one in seen] for name in (*SEEN_PLAIN, "image_grid")},
    }
    arrays = {"joint_ranges": replay.joint_ranges, "command_drivers": which.astype(np.int64)}
    for name in SERIES:
        series: TimeSeries = getattr(replay, name)
        arrays |= {f"{name}.times_ns": series.times_ns, f"{name}.values": series.values}
    for name in CHUNK_ARRAYS:
        arrays |= _end_to_end(name, [getattr(chunk, name) for chunk in chunks])
    for name in SEEN_ARRAYS:
        arrays |= _end_to_end(name, [getattr(one, name) for one in seen])
    return values, arrays


def unpack(values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Replay:
    """Raises KeyError, TypeError, ValueError or IndexError for what ``pack`` didn't make."""
    drivers = np.array(values["command_drivers"], str)
    return Replay(
        **{name: values[name] for name in PLAIN},
        joint_names=tuple(values["joint_names"]),
        joint_ranges=arrays["joint_ranges"],
        episodes=tuple(Stretch(*one) for one in values["episodes"]),
        modes=tuple(Stretch(*one) for one in values["modes"]),
        events=tuple(Incident(*one) for one in values["events"]),
        problems=tuple(values["problems"]),
        chunks=tuple(_chunks(values, arrays)),
        command_drivers=drivers[arrays["command_drivers"]],
        **{name: TimeSeries(arrays[f"{name}.times_ns"], arrays[f"{name}.values"]) for name in SERIES},
    )


def _chunks(values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[ReplayedChunk]:
    plain, seen = values["chunks"], values["seen"]
    own, given = ({name: _apart(name, arrays) for name in names} for names in (CHUNK_ARRAYS, SEEN_ARRAYS))
    return [
        ReplayedChunk(
            **{name: plain[name][i] for name in CHUNK_PLAIN},
            **{name: parts[i] for name, parts in own.items()},
            fingerprint=InputFingerprint(
                image_grid=tuple((t, height, width) for t, height, width in seen["image_grid"][i]),
                **{name: seen[name][i] for name in SEEN_PLAIN},
                **{name: parts[i] for name, parts in given.items()},
            ),
        )
        for i in range(len(plain["header_ns"]))
    ]


def _end_to_end(name: str, parts: Sequence[np.ndarray]) -> Arrays:
    """Arrays of as many axes each, which may differ in their sizes, as one, and their shapes."""
    shapes = np.array([part.shape for part in parts], np.int64)
    return {name: np.concatenate([part.ravel() for part in parts] or [np.zeros(0)]), f"{name}.shapes": shapes}


def _apart(name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    shapes = arrays[f"{name}.shapes"].tolist()
    ends = np.cumsum([np.prod(shape, dtype=np.int64) for shape in shapes]).astype(np.int64)
    parts = np.split(arrays[name], ends[:-1]) if shapes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
