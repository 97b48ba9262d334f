"""The pictures of samples, which are never all in memory: decoded when they are asked for, or read from a cache."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vla_ros.bags.read import Tally
from vla_ros.types import Place

NUM_OPEN = 16
"""Recordings that one thread has open."""


class PictureReader(Protocol):
    """Pictures of one recording, for one thread."""

    def picture(self, camera: int, place: Place) -> np.ndarray:
        """RGB uint8 ``[height, width, 3]``. Raises ValueError where it can't be decoded."""

    def close(self) -> None:
        """Close its files."""


class Pictures(ABC):
    """Those of each sample, ``shape`` [num_samples, num_cameras, height, width, 3], resized for the policy. An index
    gives some of them as an array.

    ``lost`` bool [num_samples] are the samples of which a picture turned out not to be readable, which are black;
    ``problems`` says why.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.lost = np.zeros(shape[0], bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: int | slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[indices]
        found = self.read(np.atleast_1d(rows))
        return found if np.ndim(rows) else found[0]

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each kind of problem met so far."""
        return ()

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """Those of some samples, in their order."""


class HeldPictures(Pictures):
    """An array of them, for few."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(images.shape)
        self._images = images

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._images[rows])


class PicturesOf(Pictures):
    """Some of ``others``."""

    def __init__(self, others: Pictures, rows: np.ndarray) -> None:
        super().__init__((len(rows), *others.shape[1:]))
        self._others, self._rows = others, rows

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self._others.read(self._rows[rows])


@dataclass(frozen=True)
class Recorded:
    """A recording that pictures are read of by what ``open`` gives, in each thread another. ``name`` is what it is
    called, ``files`` are those that it consists of; where it ``goes_by_camera``, a camera's pictures lie together, else
    those of a moment."""

    name: str
    files: tuple[Path, ...]
    open: Callable[[], PictureReader]
    goes_by_camera: bool


class DecodedPictures(Pictures):
    """Decoded when they are asked for, by ``num_threads``.

    Sample ``i`` was recorded in ``sources[number[i]]``, and its picture of each camera has ``places[i]``, int64
    [num_samples, num_cameras, 3]. ``resize`` makes of each what is kept; it gives uint8 of ``size`` (height, width).
    """

    def __init__(
        self,
        sources: Sequence[Recorded],
        number: np.ndarray,
        places: np.ndarray,
        resize: Callable[[np.ndarray], np.ndarray],
        size: tuple[int, int],
        num_threads: int,
    ) -> None:
        super().__init__((*places.shape[:2], *size, 3))
        self.sources, self.number, self.places, self.resize = sources, number, places, resize
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._open = threading.local()
        self._tally, self._lock = Tally(), threading.Lock()

    @property
    def problems(self) -> tuple[str, ...]:
        return self._tally.lines

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = np.zeros((len(rows), *self.shape[1:]), np.uint8)
        # What lies together is read together, by one thread.
        order = np.lexsort(self._order(rows))
        parts = [part for part in np.array_split(order, self._num_threads) if len(part)]
        list(self._pool.map(lambda part: self._fill(images, rows, part), parts))
        images[self.lost[rows]] = 0
        return images

    def _order(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Keys of each picture, the last of which comes first."""
        num_cameras = self.shape[1]
        number, camera = self.number[rows].repeat(num_cameras), np.tile(np.arange(num_cameras), len(rows))
        where = self.places[rows].reshape(-1, 3)
        apart = np.array([source.goes_by_camera for source in self.sources])[number] * camera
        return where[:, 2], where[:, 1], where[:, 0], apart, number

    def _fill(self, images: np.ndarray, rows: np.ndarray, part: np.ndarray) -> None:
        for index in part.tolist():
            row, camera = divmod(index, self.shape[1])
            sample = int(rows[row])
            place = self.places[sample, camera].tolist()
            try:
                images[row, camera] = self.resize(self._reader(int(self.number[sample])).picture(camera, tuple(place)))
            except ValueError as error:
                with self._lock:
                    self.lost[sample] = True
                    source = self.sources[self.number[sample]]
                    self._tally.add(source.name, f"{source.name}: {error}; its sample is left out")

    def _reader(self, number: int) -> PictureReader:
        """This thread's own, of which the least used is closed."""
        readers: OrderedDict[int, PictureReader] = self._open.__dict__.setdefault("readers", OrderedDict())
        if number not in readers:
            readers[number] = self.sources[number].open()
        readers.move_to_end(number)
        if len(readers) > NUM_OPEN:
            readers.popitem(last=False)[1].close()
        return readers[number]
