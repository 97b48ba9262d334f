"""What openpi's converter to PyTorch leaves: sizes of actions, weights, and statistics by asset. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.policies.importing.lerobot import CONFIG_FILE, WEIGHTS_FILE, read_object
from vla_ros.strict import explained, listed, parse_json, quoted, read_text
from vla_ros.transforms.normalize import FieldStats

ASSETS, STATS_FILE = "assets", "norm_stats.json"
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""The slots of every policy, in the order in which it sees them."""
STATISTICS = ("mean", "std", "q01", "q99")
PADDING = 1e-6  # of numbers that a robot doesn't have: their mean, and their deviation where that isn't 1


@dataclass(frozen=True)
class OpenPiCheckpoint:
    """``stats`` are the asset's, by ``state`` and ``actions``; arrays may be padded beyond the robot's numbers."""

    folder: Path
    config: Mapping[str, Any]
    asset: str
    stats: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_FILE

    def field_stats(self, key: str, size: int, horizon: int) -> FieldStats:
        """Those of the first ``size`` numbers of ``state`` or ``actions``, for each of ``horizon`` rows. Raises
        ValueError where there are fewer, or more that aren't padding."""
        stats = self.stats[key]
        mean, std = stats["mean"], stats["std"]
        is_padding = (np.abs(mean) <= PADDING) & ((std <= PADDING) | (std == 1.0))
        num_own = int(np.flatnonzero(~is_padding).max(initial=-1)) + 1
        if not num_own <= size <= len(mean):
            got = f"asset {self.asset} has {key} of {num_own or len(mean)} numbers, the space {size}"
            raise ValueError(f"{self.folder}: {got}; give the space that it was trained with: --space")
        return FieldStats(**{name: np.tile(value[:size], (horizon, 1)) for name, value in stats.items()})


def find_assets(folder: Path) -> tuple[str, ...]:
    """The names of the statistics there are."""
    paths = sorted((folder / ASSETS).glob(f"**/{STATS_FILE}"))
    return tuple(path.parent.relative_to(folder / ASSETS).as_posix() for path in paths)


def read_openpi(folder: Path, asset: str | None) -> OpenPiCheckpoint:
    """The checkpoint in ``folder`` with the statistics of ``asset``, or of the only one there is.

    Raises ValueError, in one line, for files that are missing or damaged and an asset that isn't there.
    """
    config, assets = read_object(folder / CONFIG_FILE), find_assets(folder)
    if not assets:
        raise ValueError(f"{folder / ASSETS} has no {STATS_FILE}; copy the assets folder of the checkpoint there")
    if asset is None and len(assets) > 1:
        raise ValueError(f"{folder} has statistics of several assets; name one with --asset: {listed(assets)}")
    asset = assets[0] if asset is None else asset
    if asset not in assets:
        raise ValueError(f"--asset {quoted(asset)}: {folder / ASSETS} has no such statistics; it has {listed(assets)}")
    return OpenPiCheckpoint(folder, config, asset, _read_stats(folder / ASSETS / asset / STATS_FILE))


def _read_stats(path: Path) -> dict[str, dict[str, np.ndarray]]:
    with explained(f"{path}: not readable (", OSError, KeyError, TypeError, ValueError, after="); restore it"):
        document = parse_json(read_text(path))["norm_stats"]
        stats = {}
        for key in ("state", "actions"):
            entry = document[key]
            given = {name: entry[name] for name in STATISTICS if entry.get(name) is not None}
            arrays = {name: np.array(value, np.float32) for name, value in given.items()}
            sizes = {array.shape for array in arrays.values()}
            if not {"mean", "std"} <= arrays.keys() or len(sizes) != 1 or len(next(iter(sizes))) != 1:
                raise ValueError(f"{key} has {listed(tuple(arrays))}; expected lists of one length, mean and std among")
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise ValueError(f"{key} has numbers that are not finite")
            tail = 2.326 * arrays["std"]  # shown, not computed with, where quantiles are missing
            stats[key] = {"q01": arrays["mean"] - tail, "q99": arrays["mean"] + tail} | arrays
    return stats
