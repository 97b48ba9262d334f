"""Data sets and their cameras as the command line gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vla_ros.training.config import SetConfig


def read_sets(given: Sequence[str], space: str, cameras: Sequence[str] | None) -> tuple[SetConfig, ...]:
    """Each ``SET`` or ``SET@WEIGHT``, its path made absolute, as that of a space file. Raises ValueError for a weight
    that is no number."""
    from vla_ros.training.config import SetConfig

    named = camera_pairs(cameras)
    file = Path(space).expanduser()
    space = str(file.resolve()) if file.is_file() else space
    sets = []
    for text in given:
        place, at, weight = text.rpartition("@")
        if not at or Path(text).expanduser().exists():
            place, weight = text, "1"
        try:
            share = float(weight)
        except ValueError as error:
            raise ValueError(f"--data {text}: the weight is '{weight}'; expected a number, as in SET@0.5") from error
        sets.append(SetConfig(str(Path(place).expanduser().resolve()), space, named, share))
    return tuple(sets)


def camera_pairs(given: Sequence[str] | None) -> dict[str, str]:
    """The robot's camera by a set's, of ``FEATURE=NAME``. Raises ValueError for something else."""
    pairs = [text.partition("=") for text in given or ()]
    unfit = [text for text, (_, _, name) in zip(given or (), pairs, strict=True) if not name]
    if unfit:
        raise ValueError(f"--camera is '{unfit[0]}'; expected FEATURE=NAME")
    return {key: name for key, _, name in pairs}
