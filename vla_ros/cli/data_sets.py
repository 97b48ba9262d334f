"""Data sets and their cameras as the command line gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.strict import explained

if TYPE_CHECKING:
    from vla_ros.training.config import SetConfig


def read_sets(given: Sequence[str], space: str, cameras: Sequence[str] | None) -> tuple[SetConfig, ...]:
    """Each ``SET`` or ``SET@WEIGHT``, its path made absolute, as that of a space file. Raises ValueError for a weight
    that is no number."""
    from vla_ros.training.config import SetConfig
    from vla_ros.training.weights import Weighted

    named = camera_pairs(cameras)
    file = Path(space).expanduser()
    space = str(file.resolve()) if file.is_file() else space
    sets = []
    for text in given:
        with explained("--data "):
            given_one = Weighted.parse(text).at(absolute)
        sets.append(SetConfig(given_one.path, space, named, given_one.weight))
    return tuple(sets)


def read_bags(given: Sequence[str]) -> tuple[str, ...]:
    """Each ``BAG`` or ``BAG@WEIGHT``, its path made absolute. Raises ValueError as ``read_sets``."""
    from vla_ros.training.weights import Weighted

    with explained("--bags "):
        return tuple(str(Weighted.parse(text).at(absolute)) for text in given)


def absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def camera_pairs(given: Sequence[str] | None) -> dict[str, str]:
    """The robot's camera by a set's, of ``FEATURE=NAME``. Raises ValueError for something else."""
    pairs = [text.partition("=") for text in given or ()]
    unfit = [text for text, (_, _, name) in zip(given or (), pairs, strict=True) if not name]
    if unfit:
        raise ValueError(f"--camera is '{unfit[0]}'; expected FEATURE=NAME")
    return {key: name for key, _, name in pairs}
