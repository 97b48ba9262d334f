"""Replays made of numbers, for what compares them: three joints, two cameras, no bag and no policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.pi.request import PiRequest
from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.against import compare_with_baseline
from vla_ros.replay.baseline.fingerprint import fingerprint
from vla_ros.replay.baseline.pairs import Difference
from vla_ros.replay.baseline.provenance import Provenance
from vla_ros.replay.baseline.record import Baseline, make_baseline, read_baseline, write_baseline
from vla_ros.replay.records import Incident, Replay, ReplayedChunk, Stretch
from vla_ros.transforms.images import patchify

MS, S = 1_000_000, 1_000_000_000
START_NS = 1_700_000_000 * S
JOINTS = ("base", "elbow", "gripper")
CAMERAS = ("front", "top")
RANGES = np.array([2.0, 4.0, 0.5])
HORIZON, DT_S = 4, 0.1
# The state of joint j is (position - OFFSET[j]) / SCALE[j].
OFFSETS, SCALES = np.array([0.1, -0.2, 0.3]), np.array([0.5, 0.8, 0.2])


def motion(times_ns: np.ndarray) -> np.ndarray:
    """Where the robot is commanded to, and is: each joint in its own way."""
    t = (np.asarray(times_ns) - START_NS)[..., None] * 1e-9
    return np.sin(t * np.array([0.7, 1.1, 1.7])) * np.array([0.5, 0.4, 0.1])


def chunk(header_ns: int, error: Sequence[float] = (0.0, 0.0, 0.0), **changes: Any) -> ReplayedChunk:
    """A chunk that is off the commands by ``error``, of the observation ``header_ns``, 80 ms later."""
    due_ns = header_ns + (np.arange(HORIZON) + 1) * round(DT_S * S)
    values = {
        "header_ns": header_ns,
        "asked_ns": header_ns + 10 * MS,
        "arrived_ns": header_ns + 80 * MS,
        "driver": "POLICY",
        "episode": 0,
        "due_ns": due_ns,
        "positions": motion(due_ns) + np.array(error),
        "commanded": motion(due_ns),
        "measured": motion(due_ns),
        "fingerprint": fingerprint(request(header_ns)),
    }
    return ReplayedChunk(**(values | changes))


def replay(chunks: Sequence[ReplayedChunk] | None = None, **changes: Any) -> Replay:
    """Ten seconds of one bag, a chunk every half second."""
    if chunks is None:
        chunks = [chunk(START_NS + k * S // 2) for k in range(20)]
    times_ns = START_NS + np.arange(500) * 20 * MS
    end_ns = START_NS + 10 * S
    values = {
        "bag": "/data/monday",
        "policy": "touch",
        "digest": "d1",
        "joint_names": JOINTS,
        "joint_ranges": RANGES,
        "start_ns": START_NS,
        "end_ns": end_ns,
        "episodes": (Stretch(START_NS, end_ns, "touch the red block"),),
        "modes": (Stretch(START_NS, end_ns, "POLICY"),),
        "chunks": tuple(chunks),
        "commands": TimeSeries(times_ns, motion(times_ns)),
        "command_drivers": np.full(len(times_ns), "POLICY"),
        "recorded_commands": TimeSeries(times_ns, motion(times_ns)),
        "joints": TimeSeries(times_ns, motion(times_ns)),
        "events": (),
        "assumed_latency_ms": None,
        "problems": (),
    }
    return Replay(**(values | changes))


def event(time_s: float, kind: str, line: str = "something", joint: str = "", num_times: int = 1) -> Incident:
    return Incident(START_NS + round(time_s * S), kind, line, joint, num_times)


def episodes(errors: list[float], policy: str, num_chunks: int = 6, driver: str = "TELEOP") -> Replay:
    """A bag of episodes, each with one error."""
    chunks = [
        chunk(START_NS + (k * num_chunks + i) * S, (error, 0, 0), episode=k, driver=driver)
        for k, error in enumerate(errors)
        for i in range(num_chunks)
    ]
    return replay(chunks, policy=policy, digest=policy)


def origin(**changes: Any) -> Provenance:
    values = {
        "policy_files": {"policy.yaml": "a" * 64, "model.safetensors": "b" * 64},
        "bags": {"monday": "c" * 64},
        "settings": {"strategy": "latest", "latency_ms": 80.0, "robot.joints.elbow.upper": 2.0},
        "camera_names": CAMERAS,
        "machine": "this one",
    }
    return Provenance(**(values | changes))


def scene(camera: int, time_ns: int) -> np.ndarray:
    """A camera's picture, 64 by 64: its own background and a disc with sharp edges that moves."""
    y, x = np.mgrid[:64, :64]
    t = (time_ns - START_NS) * 1e-9
    backgrounds = (200 - y, 90 + x // 2, 60 + y // 2), (40 + x // 2, 60 + y, 150 - y // 2)
    image = np.stack(backgrounds[camera], axis=-1)
    disc = (x - 30 - 12 * np.sin(t)) ** 2 + (y - 24 - 4 * camera - 9 * np.cos(1.3 * t)) ** 2 < 150
    image[disc] = ((220, 30, 20), (20, 160, 240))[camera]
    return image.astype(np.uint8)


def request(
    header_ns: int,
    joints: np.ndarray | None = None,
    filters: Sequence[Image.Resampling] = (Image.Resampling.BICUBIC,) * 2,
    cameras: Sequence[int] = (0, 1),
    **changes: Any,
) -> PiRequest:
    """What a processor makes of ``header_ns``: pictures of 32 by 32 in patches of 8, and the normalised joints."""
    pictures = [Image.fromarray(scene(camera, header_ns)) for camera in cameras]
    small = [np.asarray(picture.resize((32, 32), how)) for picture, how in zip(pictures, filters, strict=True)]
    return request_of(header_ns, np.stack(small), motion(header_ns) if joints is None else joints, **changes)


def request_of(header_ns: int, images: np.ndarray, joints: np.ndarray, **changes: Any) -> PiRequest:
    """A request from images [2, 32, 32, 3] and joints [3]."""
    ids = np.array([0, 0, 7, 8, 9, 4])
    given = PolicyInput(
        pixel_values=patchify(images[None], 8)[0],
        input_ids=ids,
        attention_mask=ids > 0,
        prefix_mask=np.ones((8, 8), bool),
        position_ids=np.arange(8)[None],
        target_ids=None,
        image_grid=((1, 4, 4),) * 2,
    )
    state = ((joints - OFFSETS) / SCALES)[None].astype(np.float32)
    noise = np.random.default_rng(header_ns).standard_normal((HORIZON, 3), np.float32)
    return replace(PiRequest(header_ns, given, state, noise), **changes)


def seen_as(given: Replay, make: Callable[[int], PiRequest]) -> Replay:
    """``given``, its observations preprocessed by ``make``, which gets their ``header_ns``."""
    return replace(given, chunks=tuple(replace(c, fingerprint=fingerprint(make(c.header_ns))) for c in given.chunks))


def golden_replay() -> Replay:
    return replay(events=(event(3.0, "limit", joint="elbow"), event(4.0, "watchdog", "camera 'front' is stale")))


def stored_baseline(golden: Replay, folder: Path) -> Baseline:
    """The golden replay, written and read again."""
    path = folder / "monday.json"
    write_baseline(path, make_baseline([golden], origin()))
    return read_baseline(path)


def differences(given: Replay, baseline: Baseline, made_of: Provenance | None = None) -> tuple[Difference, ...]:
    return compare_with_baseline([given], made_of or origin(), baseline)


def kinds(found: tuple[Difference, ...]) -> list[str]:
    return [difference.kind for difference in found]


def with_chunks(given: Replay, change: Callable[[ReplayedChunk], ReplayedChunk]) -> Replay:
    return replace(given, chunks=tuple(map(change, given.chunks)))


def off_by(given: Replay, *error: float) -> Replay:
    return with_chunks(given, lambda c: replace(c, positions=c.positions + np.array(error)))
