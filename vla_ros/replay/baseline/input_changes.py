"""What has changed in what a policy sees, by name: cameras, their colours, how they are resized, joints, tokens.

Joints are told apart by how they move: an input that is in step with another joint than before has changed places,
whatever it was scaled by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.replay.baseline.difference import INPUT, Difference
from vla_ros.replay.baseline.fingerprint import InputFingerprint, rms_difference
from vla_ros.replay.baseline.in_step import in_step
from vla_ros.replay.baseline.record import Tolerances
from vla_ros.transforms.normalize import CLAMP

# Of what an image shows, another filter moves at most this part of what it moves in detail (measured: 0.03 to 0.12; a
# shift by one pixel 0.06, mirroring 0.2, brightness 1), or what rounding moves.
MAX_COARSE_PART = 0.15
ROUNDING_LEVELS = 0.3
# An image shown in another's place must be nearer to that one by this factor than to its own.
MIN_NEARER = 4.0
NOISE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class InputPair:
    """What the policy was given for one observation, now and in the baseline; ``time_s`` is since the bag's start."""

    bag: str
    time_ns: int
    time_s: float
    got: InputFingerprint
    expected: InputFingerprint


@dataclass(frozen=True)
class _Names:
    cameras: tuple[str, ...]
    joints: tuple[str, ...]


def input_changes(
    pairs: Sequence[InputPair], camera_names: tuple[str, ...], joint_names: tuple[str, ...], tolerances: Tolerances
) -> tuple[Difference, ...]:
    """One difference for each thing that changed, at the first observation that shows it; names are the baseline's."""
    if not pairs:
        return ()
    names = _Names(camera_names, joint_names)
    found = list(_sizes(pairs))
    if not found:
        found += _images(pairs, names, tolerances)
        found += _states(pairs, names, tolerances)
    return (*found, *_texts(pairs), *_noise(pairs))


def _at(pair: InputPair, what: str, got: float | str, expected: float | str, **more: float | str) -> Difference:
    return Difference(INPUT, what, got, expected, pair.bag, pair.time_ns, pair.time_s, **more)  # type: ignore[arg-type]


def _sizes(pairs: Sequence[InputPair]) -> Iterator[Difference]:
    for pair in pairs:
        got, expected = (
            f"{list(side.image_grid)} of {side.patch_length} values, {len(side.state)} joints"
            for side in (pair.got, pair.expected)
        )
        if got != expected:
            yield _at(pair, "images (time, height, width in patches) or state have another size", got, expected)
            return


def _images(pairs: Sequence[InputPair], names: _Names, tolerances: Tolerances) -> Iterator[Difference]:
    num_cameras = len(pairs[0].got.coarse)
    changed = {
        camera: [p for p in pairs if _rms(p, camera, camera) > tolerances.image_rms] for camera in range(num_cameras)
    }
    changed = {camera: those for camera, those in changed.items() if those}
    sources = {camera: _source(those, camera) for camera, those in changed.items()}
    swapped: set[int] = set()
    for camera, those in changed.items():
        source, name = sources[camera], names.cameras[camera]
        if source == camera:
            yield _image_change(those, camera, name, tolerances)
            continue
        other = names.cameras[source]
        if sources.get(source) != camera:
            yield _at(those[0], f"camera '{name}' shows what camera '{other}' should", other, name)
        elif source not in swapped:
            yield _at(those[0], f"cameras '{name}' and '{other}' are swapped", f"{other}, {name}", f"{name}, {other}")
        swapped.add(camera)
        detail = _mean([_rms(p, camera, source) for p in those])
        if detail > tolerances.image_rms:
            what = f"camera '{other}', in its wrong place, also differs in detail, by RMS in levels of 255"
            yield _at(those[0], what, detail, 0.0, tolerance=tolerances.image_rms)


def _source(pairs: Sequence[InputPair], camera: int) -> int:
    """Whose image of the baseline ``camera`` shows now: its own, unless another is clearly nearer."""
    distances = np.array(
        [_mean([_coarse(p, camera, other) for p in pairs]) for other in range(len(pairs[0].expected.coarse))]
    )
    nearest = int(distances.argmin())
    return nearest if distances[nearest] * MIN_NEARER < distances[camera] else camera


def _image_change(pairs: Sequence[InputPair], camera: int, name: str, tolerances: Tolerances) -> Difference:
    """What happened to an image that still is the same camera's."""
    rms = _mean([_rms(p, camera, camera) for p in pairs])
    coarse = _mean([_coarse(p, camera, camera) for p in pairs])
    reversed_coarse = _mean([_coarse(p, camera, camera, reverse=True) for p in pairs])
    if reversed_coarse * MIN_NEARER < coarse:
        what = "colours are reversed (RGB and BGR)"
    elif coarse <= max(MAX_COARSE_PART * rms, ROUNDING_LEVELS):
        what = "fine detail changed and nothing else: another resize filter, or a shift by about a pixel"
    else:
        what = "image changed: brightness, colours, crop or content"
    line = f"camera '{name}': {what}; RMS in levels of 255"
    return _at(pairs[0], line, rms, 0.0, tolerance=tolerances.image_rms)


def _rms(pair: InputPair, camera: int, other: int) -> float:
    return float(rms_difference(pair.got.sketch[camera], pair.expected.sketch[other]))


def _coarse(pair: InputPair, camera: int, other: int, reverse: bool = False) -> float:
    """The mean difference of bands, in levels; with ``reverse`` colours are compared last to first."""
    got = pair.got.coarse[camera][:, ::-1] if reverse else pair.got.coarse[camera]
    return float(np.abs(got - pair.expected.coarse[other]).mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _states(pairs: Sequence[InputPair], names: _Names, tolerances: Tolerances) -> Iterator[Difference]:
    got, expected = (np.stack([getattr(p, side).state for p in pairs]) for side in ("got", "expected"))
    is_changed = np.abs(got - expected) > tolerances.state
    columns = np.flatnonzero(is_changed.any(axis=0))
    if not len(columns):
        return
    # A value at its clamp no longer follows its joint.
    is_clamped = np.isclose(np.abs(got), CLAMP) | np.isclose(np.abs(expected), CLAMP)
    sources = in_step(np.where(is_clamped, np.nan, got), np.where(is_clamped, np.nan, expected))
    moved = [j for j in columns if sources[j] not in (None, j)]
    if moved:
        pair = pairs[int(np.flatnonzero(is_changed[:, moved].any(axis=1))[0])]
        got_names = ", ".join(names.joints[sources[j]] for j in moved)  # type: ignore[index]
        expected_names = ", ".join(names.joints[j] for j in moved)
        yield _at(pair, "the joint order of the state changed", got_names, expected_names, joint=names.joints[moved[0]])
    for j in columns:
        if j in moved:
            continue
        i = int(np.flatnonzero(is_changed[:, j])[0])
        what = "the state is normalised otherwise: statistics or mode" if sources[j] == j else "the state changed"
        numbers = {"joint": names.joints[j], "tolerance": tolerances.state}
        yield _at(pairs[i], f"{what}; normalised value", float(got[i, j]), float(expected[i, j]), **numbers)


def _texts(pairs: Sequence[InputPair]) -> Iterator[Difference]:
    for pair in pairs:
        if pair.got.tokens != pair.expected.tokens:
            got, expected = (f"{side.num_tokens} tokens, digest {side.tokens}" for side in (pair.got, pair.expected))
            yield _at(pair, "the prompt's tokens changed: tokenizer, prompt or instruction", got, expected)
            return
        if pair.got.layout != pair.expected.layout:
            what = "padding, attention mask or position ids changed; digest"
            yield _at(pair, what, pair.got.layout, pair.expected.layout)
            return


def _noise(pairs: Sequence[InputPair]) -> Iterator[Difference]:
    for pair in pairs:
        got, expected = pair.got.noise, pair.expected.noise
        if got.shape != expected.shape or np.abs(got - expected).max(initial=0.0) > NOISE_TOLERANCE:
            yield _at(pair, "the noise changed; its first values", str(got.tolist()), str(expected.tolist()))
            return
