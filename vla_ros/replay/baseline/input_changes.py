"""What has changed in what a policy sees, by name: cameras, their colours, how they are resized, joints, tokens.

Joints are told apart by how they move: an input that is in step with another joint than before has changed places,
whatever it was scaled by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vla_ros.replay.baseline.fingerprint import InputFingerprint, rms_difference
from vla_ros.replay.baseline.pairs import INPUT, ChunkPair, Difference, in_step
from vla_ros.replay.baseline.record import Baseline, Tolerances
from vla_ros.transforms.normalize import CLAMP

# Of what an image shows, another filter moves at most this part of what it moves in detail (measured: 0.03 to 0.12; a
# shift by one pixel 0.06, mirroring 0.2, brightness 1), or what rounding moves.
MAX_COARSE_PART = 0.15
ROUNDING_LEVELS = 0.3
# An image shown in another's place must be nearer to that one by this factor than to its own.
MIN_NEARER = 4.0
NOISE_TOLERANCE = 1e-5


def input_changes(chunks: Sequence[ChunkPair], baseline: Baseline) -> Iterator[Difference]:
    """One difference for each thing that changed, at the first observation that shows it; names are the baseline's."""
    pairs = [pair for pair in chunks if None not in _both(pair)]
    if not pairs:
        return
    sizes = _first(
        pairs,
        "images (time, height, width in patches) or state have another size",
        lambda given: f"{list(given.image_grid)} of {given.patch_length} values, {len(given.state)} joints",
    )
    yield from sizes
    if not sizes:
        yield from _images(pairs, baseline.origin.camera_names, baseline.tolerances)
        yield from _states(pairs, baseline.joint_names, baseline.tolerances)
    yield from _first(
        pairs,
        "the prompt's tokens changed: tokenizer, prompt or instruction",
        lambda given: f"{given.num_tokens} tokens, digest {given.tokens}",
    ) or _first(pairs, "padding, attention mask or position ids changed; digest", lambda given: given.layout)
    yield from _noise(pairs)


def _both(pair: ChunkPair) -> tuple[InputFingerprint | None, InputFingerprint | None]:
    return pair.got.fingerprint, pair.expected.fingerprint


def _stacked(pairs: Sequence[ChunkPair], name: str) -> tuple[np.ndarray, np.ndarray]:
    """One array of all fingerprints, now and in the baseline, ``[num_pairs, ...]``."""
    got, expected = (
        np.stack([getattr(side, name) for side in sides]) for sides in zip(*map(_both, pairs), strict=True)
    )
    return got, expected


def _first(pairs: Sequence[ChunkPair], what: str, shown: Callable[[InputFingerprint], str]) -> list[Difference]:
    """The first observation for which something is not the same, ``shown`` in words; empty where there is none."""
    for pair in pairs:
        got, expected = map(shown, _both(pair))
        if got != expected:
            return [pair.differ(INPUT, what, got, expected)]
    return []


def _images(pairs: Sequence[ChunkPair], names: Sequence[str], tolerances: Tolerances) -> Iterator[Difference]:
    sketch, expected_sketch = _stacked(pairs, "sketch")
    coarse, expected_coarse = _stacked(pairs, "coarse")
    # In levels, of every camera against every camera of the baseline: [num_pairs, num_cameras, num_cameras].
    rms = rms_difference(sketch[:, :, None], expected_sketch[:, None])
    coarse_gap, reversed_gap = (
        np.abs(shown[:, :, None] - expected_coarse[:, None]).mean(axis=(3, 4)) for shown in (coarse, coarse[..., ::-1])
    )
    is_changed = np.diagonal(rms, axis1=1, axis2=2) > tolerances.image_rms
    changed = {int(camera): np.flatnonzero(is_changed[:, camera]) for camera in np.flatnonzero(is_changed.any(axis=0))}
    sources = {camera: _source(coarse_gap[those, camera].mean(axis=0), camera) for camera, those in changed.items()}
    swapped: set[int] = set()
    for camera, those in changed.items():
        source, first = sources[camera], pairs[those[0]]
        name, other = names[camera], names[source]
        detail = float(rms[those, camera, source].mean())
        if source == camera:
            gaps = (float(gap[those, camera, camera].mean()) for gap in (coarse_gap, reversed_gap))
            line = f"camera '{name}': {_image_change(detail, *gaps)}; RMS in levels of 255"
            yield first.differ(INPUT, line, detail, 0.0, tolerance=tolerances.image_rms)
            continue
        if sources.get(source) != camera:
            yield first.differ(INPUT, f"camera '{name}' shows what camera '{other}' should", other, name)
        elif source not in swapped:
            what = f"cameras '{name}' and '{other}' are swapped"
            yield first.differ(INPUT, what, f"{other}, {name}", f"{name}, {other}")
        swapped.add(camera)
        if detail > tolerances.image_rms:
            what = f"camera '{other}', in its wrong place, also differs in detail, by RMS in levels of 255"
            yield first.differ(INPUT, what, detail, 0.0, tolerance=tolerances.image_rms)


def _source(gaps: np.ndarray, camera: int) -> int:
    """Whose image of the baseline ``camera`` shows now: its own, unless another is clearly nearer."""
    nearest = int(gaps.argmin())
    return nearest if gaps[nearest] * MIN_NEARER < gaps[camera] else camera


def _image_change(rms: float, coarse: float, reversed_coarse: float) -> str:
    """What happened to an image that still is the same camera's."""
    if reversed_coarse * MIN_NEARER < coarse:
        return "colours are reversed (RGB and BGR)"
    if coarse <= max(MAX_COARSE_PART * rms, ROUNDING_LEVELS):
        return "fine detail changed and nothing else: another resize filter, or a shift by about a pixel"
    return "image changed: brightness, colours, crop or content"


def _states(pairs: Sequence[ChunkPair], names: Sequence[str], tolerances: Tolerances) -> Iterator[Difference]:
    got, expected = _stacked(pairs, "state")
    is_changed = np.abs(got - expected) > tolerances.state
    columns = np.flatnonzero(is_changed.any(axis=0)).tolist()
    if not columns:
        return
    # A value at its clamp no longer follows its joint.
    is_clamped = np.isclose(np.abs(got), CLAMP) | np.isclose(np.abs(expected), CLAMP)
    sources = in_step(np.where(is_clamped, np.nan, got), np.where(is_clamped, np.nan, expected))
    moved = [j for j in columns if sources[j] not in (None, j)]
    if moved:
        first = pairs[int(is_changed[:, moved].any(axis=1).argmax())]
        orders = (", ".join(names[j] for j in order) for order in ([sources[j] for j in moved], moved))
        yield first.differ(INPUT, "the joint order of the state changed", *orders, joint=names[moved[0]])
    for j in columns:
        if j in moved:
            continue
        i = int(is_changed[:, j].argmax())
        what = "the state is normalised otherwise: statistics or mode" if sources[j] == j else "the state changed"
        place = {"joint": names[j], "tolerance": tolerances.state}
        yield pairs[i].differ(INPUT, f"{what}; normalised value", float(got[i, j]), float(expected[i, j]), **place)


def _noise(pairs: Sequence[ChunkPair]) -> Iterator[Difference]:
    for pair in pairs:
        got, expected = (side.noise for side in _both(pair))
        if got.shape != expected.shape or np.abs(got - expected).max(initial=0.0) > NOISE_TOLERANCE:
            yield pair.differ(INPUT, "the noise changed; its first values", str(got.tolist()), str(expected.tolist()))
            return
