"""What is kept of a request to tell later whether, and how, the preprocessing has changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vla_ros.transforms.sample import PolicyRequest

NUM_BANDS = 16
SKETCH_SIZE = 64
NUM_CHANNELS = 3
NUM_NOISE_VALUES = 4
DIGEST_LENGTH = 16
# Pixels that come ready normalised lie between about -1 and 1.
LEVELS_PER_UNIT = 127.5


@dataclass(frozen=True)
class InputFingerprint:
    """One request in a few hundred numbers; images in levels of 255, cameras in the policy's order.

    ``coarse`` [num_cameras, num_bands, 3] is the mean of every colour over bands of patches: what the image shows.
    ``sketch`` [num_cameras, SKETCH_SIZE] are sums of all pixels with fixed random signs, scaled so that the length of
    the difference of two sketches estimates (to some 10 %) the RMS difference of the images: their finest detail.
    ``state`` [state_dim] is normalised, ``noise`` the first of its values. ``image_grid`` is the request's,
    ``patch_length`` how many values a patch has. ``tokens`` is a digest of the ``num_tokens`` valid tokens' ids,
    ``layout`` one of masks and positions, padding included.
    """

    image_grid: tuple[tuple[int, int, int], ...]
    patch_length: int
    coarse: np.ndarray
    sketch: np.ndarray
    state: np.ndarray
    noise: np.ndarray
    num_tokens: int
    tokens: str
    layout: str


def fingerprint(request: PolicyRequest) -> InputFingerprint:
    """The fingerprint of a request: a millisecond or so."""
    given = request.view()
    images = [image if image.dtype == np.uint8 else image * np.float32(LEVELS_PER_UNIT) for image in given.images]
    return InputFingerprint(
        image_grid=given.image_grid,
        patch_length=images[0].shape[1],
        coarse=np.stack([_coarse(image) for image in images]),
        sketch=np.stack([_sketch(image) for image in images]),
        state=given.state[-1:].ravel().astype(np.float64),
        noise=given.noise.ravel()[:NUM_NOISE_VALUES].astype(np.float64),
        num_tokens=len(given.tokens),
        tokens=_digest(given.tokens),
        layout=_digest(*given.layout),
    )


def rms_difference(sketch: np.ndarray, other: np.ndarray) -> np.ndarray:
    """An estimate of the RMS difference, in levels of 255, of images [...] from their sketches [..., SKETCH_SIZE]."""
    return np.sqrt(((sketch - other) ** 2).sum(axis=-1))


def _coarse(patches: np.ndarray) -> np.ndarray:
    """Means [num_bands, 3] over patches that follow one another; a patch holds one colour after the other."""
    by_patch = patches.reshape(len(patches), NUM_CHANNELS, -1).mean(axis=2, dtype=np.float64)
    return np.stack([band.mean(axis=0) for band in np.array_split(by_patch, min(NUM_BANDS, len(by_patch)))])


def _sketch(patches: np.ndarray) -> np.ndarray:
    values = patches.ravel()
    signed = np.zeros(-(-values.size // SKETCH_SIZE) * SKETCH_SIZE)
    signed[: values.size] = values * _signs(values.size)
    return signed.reshape(-1, SKETCH_SIZE).sum(axis=0) / np.sqrt(values.size)


@lru_cache(maxsize=4)
def _signs(size: int) -> np.ndarray:
    """Random signs that no release of a library can change."""
    bits = np.unpackbits(np.frombuffer(hashlib.shake_128(b"vla_ros fingerprint").digest(-(-size // 8)), np.uint8))
    return np.where(bits[:size], 1.0, -1.0)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:DIGEST_LENGTH]
