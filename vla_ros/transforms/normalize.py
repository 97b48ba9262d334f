"""Normalisation of states and actions by per-key statistics of shape [horizon, dim]."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.strict import explained, parse_json, read_text

# quantile and mean_std are this package's; the others are what released policies were trained with, rounded as there.
MODES = ("quantile", "mean_std", "lerobot_mean_std", "lerobot_range", "openpi_mean_std", "openpi_quantile", "none")
CLAMP = 1.5  # quantile mode only: rare values beyond q01..q99 keep their sign but not their size
EPSILON = 1e-6
LEROBOT_EPSILON = 1e-8
MAX_VALUE = 1e6
"""Of statistics; no unit makes more of a joint."""


@dataclass(frozen=True)
class FieldStats:
    """Statistics of one key over the training data, each float32 [horizon, dim]."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray


NO_STATS = FieldStats(*(np.zeros((0, 0), np.float32) for _ in range(4)))
"""Where values stay as they are."""


@dataclass(frozen=True)
class Normalizer:
    """Maps values of one key to about -1..1 and back, by ``mode``: ``quantile`` clips; ``lerobot_range`` makes -1 of
    ``q01`` and 1 of ``q99``, whichever statistics these are; ``none`` leaves values as they are.

    Raises ValueError for a std of 0, which ``mean_std`` can't use.
    """

    mode: str
    stats: FieldStats

    def __post_init__(self) -> None:
        if self.mode == "mean_std" and not (self.stats.std > 0).all():
            raise ValueError("normalization is mean_std and a std is 0; expected all above 0: use quantile")

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """``values`` [..., horizon, dim] in SI units to float32 of the same shape."""
        stats = self.stats
        if self.mode == "mean_std":
            return ((values - stats.mean) / (stats.std + EPSILON)).astype(np.float32)
        if self.mode == "quantile":
            return np.clip((values - self._centre) * 2.0 / self._span, -CLAMP, CLAMP).astype(np.float32)
        if self.mode == "openpi_mean_std":
            return ((values - stats.mean) / (stats.std + np.float64(EPSILON))).astype(np.float32)
        values = np.asarray(values, np.float32)  # a state becomes words of a prompt: rounded as where it was trained
        if self.mode == "lerobot_mean_std":
            return (values - stats.mean) / (stats.std + np.float32(LEROBOT_EPSILON))
        if self.mode == "lerobot_range":
            return np.float32(2) * (values - stats.q01) / self._width - np.float32(1)
        if self.mode == "openpi_quantile":
            return (values - stats.q01) / (stats.q99 - stats.q01 + np.float32(EPSILON)) * np.float32(2) - np.float32(1)
        return values

    def denormalize(self, values: np.ndarray) -> np.ndarray:
        """The inverse of ``normalize``, float64; quantile mode clamps first."""
        values, stats = np.asarray(values, np.float64), self.stats
        if self.mode == "quantile":
            return np.clip(values, -CLAMP, CLAMP) * self._span / 2.0 + self._centre
        if self.mode.endswith("mean_std"):
            return values * (stats.std + (0.0 if self.mode == "lerobot_mean_std" else EPSILON)) + stats.mean
        if self.mode == "lerobot_range":
            return (values + 1.0) / 2.0 * self._width + stats.q01
        if self.mode == "openpi_quantile":
            return (values + 1.0) / 2.0 * (stats.q99 - stats.q01 + EPSILON) + stats.q01
        return values

    @property
    def _centre(self) -> np.ndarray:
        """What becomes 0, also where a dimension never moved."""
        return (self.stats.q01 + self.stats.q99) / 2.0

    @property
    def _width(self) -> np.ndarray:
        width = self.stats.q99 - self.stats.q01
        return np.where(width == 0, np.float32(LEROBOT_EPSILON), width)

    @property
    def _span(self) -> np.ndarray:
        return np.maximum(self.stats.q99 - self.stats.q01, EPSILON)


def compute_stats(values: np.ndarray, num_known: np.ndarray | None = None, min_range: float = 1e-3) -> FieldStats:
    """Statistics of ``values`` [num_samples, horizon, dim], of each sample the first ``num_known`` [num_samples] steps
    (None: all). They are taken step by step, so that there is no second copy of the values; a step that no sample
    reaches has those of the one before.

    A dimension that hardly moves gets a range of ``min_range`` (in the values' unit), so that its noise is not
    blown up to the size of a signal.
    """
    steps: list[np.ndarray] = []
    for step in range(values.shape[1]):
        known = values[:, step] if num_known is None else values[num_known > step, step]
        steps.append(_stats_of(known, min_range) if len(known) else steps[-1])
    return FieldStats(*np.stack(steps, axis=1).astype(np.float32))


def _stats_of(values: np.ndarray, min_range: float) -> np.ndarray:
    """Mean, standard deviation, q01 and q99 of ``values`` [num_samples, dim], each [dim]."""
    mean, std = values.mean(0, dtype=np.float64), np.maximum(values.std(0, dtype=np.float64), min_range / 4)
    q01, q99 = np.quantile(values, (0.01, 0.99), axis=0)
    widen = np.maximum(min_range - (q99 - q01), 0.0) / 2
    return np.stack((mean, std, q01 - widen, q99 + widen))


def save_stats(path: Path, stats: Mapping[str, FieldStats]) -> None:
    """Write ``norm_stats.json``: for each key its mean, std, q01 and q99 as nested lists."""
    document = {key: {name: array.tolist() for name, array in vars(field).items()} for key, field in stats.items()}
    path.write_text(json.dumps(document, indent=1) + "\n")


def load_stats(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, FieldStats]:
    """Read ``norm_stats.json`` and check every array of each key of ``shapes`` against its [horizon, dim].

    Raises ValueError naming the file and the key.
    """
    with explained(f"{path}: not readable as JSON (", OSError, ValueError, after="); restore it from its origin"):
        document = parse_json(read_text(path))
    stats = {}
    for key, shape in shapes.items():
        arrays = {}
        for name in ("mean", "std", "q01", "q99"):
            try:
                array = np.array(document[key][name], np.float32)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{path}: '{key}.{name}' is missing or not a table of numbers") from error
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{path}: '{key}.{name}' has shape {array.shape}; expected finite values of {shape}")
            arrays[name] = array
        stats[key] = FieldStats(**arrays)
        _check_sane(stats[key], f"{path}: '{key}'")
    return stats


def _check_sane(stats: FieldStats, where: str) -> None:
    largest = max(float(np.abs(array).max(initial=0.0)) for array in vars(stats).values())
    if largest > MAX_VALUE:
        raise ValueError(f"{where} has {largest:g}; expected at most {MAX_VALUE:g} in any unit: compute it again")
    if (stats.std < 0).any() or (stats.q99 < stats.q01).any():
        raise ValueError(f"{where} has std below 0, or q99 below q01; restore it from the policy's origin")
