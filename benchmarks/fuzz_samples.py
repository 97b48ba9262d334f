"""What ``fuzz.py`` mutates: a good file, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Lines = Iterable[str]


@dataclass(frozen=True)
class Sample:
    """A good file ``path`` in ``folder``; ``read`` reads it, as it is by then, and returns what it said about it.

    ``form`` is ``zip`` or ``zstd`` for a file whose inside is to be mutated, too.
    """

    folder: Path
    path: Path
    read: Callable[[], Lines | None]
    form: str = ""


Make = Callable[[Path], Sample]


def make_sample(
    folder: Path, name: str, read: Callable[[Path], Any], data: bytes | None = None, form: str = ""
) -> Sample:
    """``read`` gets the file and says nothing."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    if data is not None:
        (folder / name).write_bytes(data)

    def read_file() -> None:
        read(folder / name)

    return Sample(folder, folder / name, read_file, form)
