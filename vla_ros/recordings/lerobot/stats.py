"""Statistics as LeRobot keeps them: of each episode, and of a whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

QUANTILES = {f"q{round(100 * share):02d}": share for share in (0.01, 0.1, 0.5, 0.9, 0.99)}
Stats = Mapping[str, np.ndarray]
# Of pictures every so many pixels count, each way: their noise is all that this leaves out.
PIXEL_STRIDE = 4


def stats_of(values: np.ndarray) -> Stats:
    """Of ``values`` ``[num_rows]`` or ``[num_rows, size]``, each ``[size]``, and their ``count`` ``[1]``."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {**found, "count": np.array([len(rows)]), **dict(zip(QUANTILES, quantiles, strict=True))}


class PictureStats:
    """Of pictures, from how often each channel has each value: they themselves are not kept."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._num = 0

    def add(self, image: np.ndarray) -> None:
        """RGB uint8 ``[height, width, 3]``."""
        seen = image[::PIXEL_STRIDE, ::PIXEL_STRIDE]
        for channel in range(3):
            self._counts[channel] += np.bincount(seen[..., channel].reshape(-1), minlength=256)
        self._num += 1

    def stats(self) -> Stats:
        """Each ``[3, 1, 1]``, from 0 to 1, and how many pictures there were."""
        levels = np.arange(256) / 255.0
        shares = self._counts / self._counts.sum(1, keepdims=True)
        mean = shares @ levels
        below = shares.cumsum(1)
        at = {name: levels[(below < share - 1e-12).sum(1)] for name, share in QUANTILES.items()}
        is_there = self._counts > 0
        found = {
            "min": levels[is_there.argmax(1)],
            "max": levels[255 - is_there[:, ::-1].argmax(1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0.0)),
            **at,
        }
        return {**{name: value.reshape(3, 1, 1) for name, value in found.items()}, "count": np.array([self._num])}


def together(parts: Sequence[Stats]) -> Stats:
    """Of all that the ``parts`` are of. Quantiles are the mean of theirs, weighted by count, as LeRobot has it: of what
    differs from episode to episode these are narrower than the true ones."""
    counts = np.array([float(part["count"][0]) for part in parts])
    weights = counts / counts.sum()

    def mean(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.tensordot(weights, np.stack(values), 1)

    means = [part["mean"] for part in parts]
    centre = mean(means)
    spread = mean([part["std"] ** 2 + (part["mean"] - centre) ** 2 for part in parts])
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": centre,
        "std": np.sqrt(spread),
        "count": np.array([int(counts.sum())]),
        **{name: mean([part[name] for part in parts]) for name in QUANTILES},
    }
