"""Pictures decoded once, at the size that the policy sees them in: a folder of files that every process of a machine
maps into its memory.

A recording has an entry of its own, named by a digest of what it was made of: the recording's files with their sizes
and times of change, which pictures of it in which order, and how they were resized. So settings that change none of
this find it again, and whoever deletes the folder loses nothing but time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from tqdm import tqdm

from vla_ros.strict import explained, one_line, parse_json, quoted, read_text
from vla_ros.training.pictures import DecodedPictures, Pictures
from vla_ros.training.versions import release_of

ABOUT, DATA, LOCK, PARTIAL = "about.json", "pictures", "lock", ".partial"
FORMAT = 1
PACKAGES = ("vla_ros", "opencv-python-headless", "pillow", "av")
"""Whose releases decide what a picture becomes."""
BLOCK = 128
"""Samples that are decoded and written at once."""
NUM_CHECKED = 32
"""Samples of an entry, from its first to its last, that are compared with what was written before it is used."""
SPARE_BYTES = 1 << 28
"""What is left on the disk."""
_MAX_ABOUT_BYTES = 1 << 26
_FIX = "; give another folder with cache=DIR, or decode on the fly with cache=off"


@dataclass(frozen=True)
class _Entry:
    """What an entry is of: ``rows`` of all samples, made as ``key`` says."""

    name: str
    folder: Path
    key: dict[str, Any]
    rows: np.ndarray
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class _Mapped:
    """An entry's pictures, and which of its samples were lost in decoding."""

    images: np.ndarray
    memory: mmap.mmap
    lost: tuple[int, ...]
    problems: tuple[str, ...]


class CachedPictures(Pictures):
    """Those of samples, each in one of ``parts`` in the order of these."""

    def __init__(self, parts: Sequence[_Mapped]) -> None:
        num = sum(len(part.images) for part in parts)
        super().__init__((num, *parts[0].images.shape[1:]))
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.images) for part in parts)])
        for part, start in zip(parts, self._starts, strict=False):
            self.lost[start + np.array(part.lost, np.int64)] = True

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(line for part in self._parts for line in part.problems)

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        number = np.searchsorted(self._starts, rows, "right") - 1
        for each in np.unique(number).tolist():
            there, part = number == each, self._parts[each]
            images[there] = part.images[rows[there] - self._starts[each]]
            # What was read stays in the system's memory as long as there is room, and isn't counted as this process's.
            part.memory.madvise(mmap.MADV_DONTNEED)
        return images


class PictureCache:
    """The one in ``folder``. ``report`` gets a line for what is decoded, and for entries that had to be made anew."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder, self._report = folder, report

    def pictures(self, decoded: DecodedPictures, is_shown: bool = False) -> CachedPictures:
        """All pictures of ``decoded``, whose samples are in the order of their sources. What isn't there yet is decoded
        by one process, with its progress where that ``is_shown``; others wait for it.

        Raises ValueError where the folder can't be written, or the disk has no room for it.
        """
        entries = [self._entry(decoded, number) for number in range(len(decoded.sources))]
        if any(self._find(entry) is None for entry in entries):
            with self._locked():
                self._fill(entries, decoded, is_shown)
        found = [self._find(entry) for entry in entries]
        gone = [entry.folder for entry, mapped in zip(entries, found, strict=True) if mapped is None]
        if gone:
            raise ValueError(f"cache {gone[0]}: it can't be read, just after it was written{_FIX}")
        return CachedPictures([mapped for mapped in found if mapped is not None])

    def _entry(self, decoded: DecodedPictures, number: int) -> _Entry:
        rows, source = np.flatnonzero(decoded.number == number), decoded.sources[number]
        places = hashlib.sha256(np.ascontiguousarray(decoded.places[rows], "<i8").tobytes())
        shape = (len(rows), *decoded.shape[1:])
        key = {
            "format": FORMAT,
            "releases": [release_of(name) for name in PACKAGES],
            "files": [list(_identity(file)) for file in source.files],
            "pictures": places.hexdigest(),
            "resized": description(decoded.resize),
            "shape": list(shape),
        }
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        return _Entry(source.name, self._folder / digest, key, rows, shape)

    def _find(self, entry: _Entry, report: Callable[[str], None] = lambda line: None) -> _Mapped | None:
        """None where it isn't there; a damaged one is named."""
        if not entry.folder.exists():
            return None
        try:
            return _read(entry)
        except (OSError, ValueError, TypeError, KeyError) as error:
            report(f"cache {entry.folder}: damaged, or another's ({one_line(error, 200)}); it is made anew")
            return None

    def _fill(self, entries: Sequence[_Entry], decoded: DecodedPictures, is_shown: bool) -> None:
        """Decode what is missing, now that nobody else does."""
        missing = [entry for entry in entries if self._find(entry, self._report) is None]
        with explained(f"cache {self._folder}: ", OSError, after=_FIX):
            for entry in missing:
                shutil.rmtree(entry.folder, ignore_errors=True)
            for left in self._folder.glob(f"*{PARTIAL}"):  # by a process that was killed
                shutil.rmtree(left)
            wanted, free = sum(entry.num_bytes for entry in missing), shutil.disk_usage(self._folder).free
        if wanted + SPARE_BYTES > free:
            got = f"the pictures of {len(missing)} recordings take {wanted / 1e9:.2f} GB, and {free / 1e9:.2f} are free"
            raise ValueError(f"cache {self._folder}: {got}{_FIX}")
        if missing:
            self._report(f"decoding {len(missing)} recordings into {self._folder} ({wanted / 1e9:.2f} GB)")
        num = sum(len(entry.rows) for entry in missing)
        with tqdm(total=num, unit="sample", dynamic_ncols=True, disable=not (missing and is_shown)) as bar:
            for entry in missing:
                with explained(f"cache {entry.folder}: ", OSError, after=_FIX):
                    _write(entry, decoded, bar.update)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Inside its ``with`` no other process decodes into the folder."""
        with explained(f"cache {self._folder}: ", OSError, after=_FIX):
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            with explained(f"cache {self._folder}: ", OSError, after=_FIX):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    who = quoted(os.pread(descriptor, 200, 0).decode(errors="replace").strip())
                    self._report(f"waiting for {who or 'another process'}, which decodes into {self._folder}")
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def description(resize: Callable[[np.ndarray], np.ndarray]) -> str:
    """What a function does to pictures, as far as its name and what it was given say it."""
    if isinstance(resize, partial):
        return f"{description(resize.func)}{resize.args}{sorted(resize.keywords.items())}"
    return f"{resize.__module__}.{resize.__qualname__}"


def _identity(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file.resolve()), found.st_size, found.st_mtime_ns


def _read(entry: _Entry) -> _Mapped:
    """Raises ValueError and others for one that isn't whole, or of something else."""
    about = parse_json(read_text(entry.folder / ABOUT, _MAX_ABOUT_BYTES))
    if about["key"] != entry.key:
        raise ValueError("it was made of something else")
    with (entry.folder / DATA).open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) != entry.num_bytes:
            raise ValueError(f"its pictures have {size} bytes; expected {entry.num_bytes}")
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    images = np.ndarray(entry.shape, np.uint8, mapped)
    if _checksums(images) != about["checksums"]:
        raise ValueError("its pictures have other checksums")
    lost = tuple(int(row) for row in about["lost"])
    if any(not 0 <= row < len(images) for row in lost):
        raise ValueError(f"it has lost a sample that is none of its {len(images)}")
    return _Mapped(images, mapped, lost, tuple(one_line(str(line)) for line in about["problems"]))


def _write(entry: _Entry, decoded: DecodedPictures, on_progress: Callable[[int], object]) -> None:
    """Whole or not at all."""
    partial_folder = entry.folder.with_name(entry.folder.name + PARTIAL)
    partial_folder.mkdir()
    num_known = len(decoded.problems)
    row_bytes = entry.num_bytes // len(entry.rows)
    try:
        with (partial_folder / DATA).open("w+b") as file:
            file.truncate(entry.num_bytes)
            for start in range(0, len(entry.rows), BLOCK):
                rows = entry.rows[start : start + BLOCK]
                file.seek(start * row_bytes)
                file.write(decoded.read(rows).data)
                on_progress(len(rows))
            file.flush()
            os.fsync(file.fileno())
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                checksums = _checksums(np.ndarray(entry.shape, np.uint8, mapped))
        about = {
            "key": entry.key,
            "of": entry.name,
            "lost": np.flatnonzero(decoded.lost[entry.rows]).tolist(),
            "problems": decoded.problems[num_known:],
            "checksums": checksums,
        }
        with (partial_folder / ABOUT).open("w") as text:
            text.write(json.dumps(about))
            text.flush()
            os.fsync(text.fileno())
        os.replace(partial_folder, entry.folder)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise


def _checksums(images: np.ndarray) -> list[int]:
    rows = np.unique(np.linspace(0, len(images) - 1, NUM_CHECKED).astype(np.int64))
    return [crc32(np.ascontiguousarray(images[row]).data) for row in rows.tolist()]
