"""What ``meta/info.json`` of a LeRobot data set says, and where its files are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.strict import explained, listed, parse_json, quoted, read_text

INFO = "meta/info.json"
TASKS = "meta/tasks.parquet"
NOTES = "meta/vla_ros.json"
"""What only this package knows of a set: LeRobot doesn't look at it."""
DRIVER, INTERVENTION, STAMPS = "driver", "intervention", "stamp_ns"
"""Columns of a set that this package wrote; LeRobot itself writes the second."""
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
VERSION = "v3.0"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
_CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"
_FIELD = re.compile(r"\{(video_key|chunk_index|file_index)(?::0?(\d)d)?\}")
MAX_FPS = 1000.0


@dataclass(frozen=True)
class Feature:
    """A column of the data or a camera: ``dtype`` is ``video``, ``image`` or a number's; ``names`` are those of its
    numbers, where it has some."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    def is_camera(self) -> bool:
        """Whether it is of pictures in colour."""
        return self.dtype in ("video", "image") and len(self.shape) == 3 and 3 in (self.shape[0], self.shape[-1])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of its pictures; channels may come last or first."""
        height, width = self.shape[:2] if self.shape[-1] == 3 else self.shape[1:]
        return height, width


@dataclass(frozen=True)
class SetInfo:
    """``folder`` is the set's, ``fps`` its rows in a second of its own time."""

    folder: Path
    fps: float
    features: Mapping[str, Feature]
    data_path: str
    video_path: str

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """Its pictures in colour, in the order of the file."""
        return tuple(feature for feature in self.features.values() if feature.is_camera)

    def data_file(self, chunk: int, file: int) -> Path:
        """Where rows are."""
        return self._place("data_path", self.data_path, chunk, file)

    def video_file(self, key: str, chunk: int, file: int) -> Path:
        """Where the pictures of feature ``key`` are."""
        return self._place("video_path", self.video_path, chunk, file, key)

    def _place(self, name: str, template: str, chunk: int, file: int, key: str = "") -> Path:
        values = {"video_key": key, "chunk_index": chunk, "file_index": file}

        def fill(match: re.Match[str]) -> str:
            value = values[match[1]]
            return str(value).zfill(int(match[2] or 0))

        text = _FIELD.sub(fill, template)
        path = self.folder / text
        if "{" in text or not path.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"{self.folder / INFO}: {name} is '{quoted(template)}'; expected one such as {DATA}")
        return path


def read_info(folder: Path) -> SetInfo:
    """Raises ValueError for a folder that isn't a LeRobot data set, one of another version (with the command that
    converts it), and an info.json that lacks what is needed to read the rest."""
    path = folder / INFO
    if not path.is_file():
        raise ValueError(f"{folder} has no {INFO}; expected the folder of a LeRobot data set")
    with explained(f"{path}: not readable as JSON (", OSError, ValueError, after="); restore it from its origin"):
        document = parse_json(read_text(path))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds {type(document).__name__}; expected an object")
    _check_version(folder, document.get("codebase_version"))
    with explained(f"{path}: "):
        fps: Any = document.get("fps")
        if type(fps) not in (int, float) or not 0 < fps <= MAX_FPS or not math.isfinite(fps):
            got = "has no fps" if fps is None else f"fps is {quoted(repr(fps))}"
            raise ValueError(f"{got}; expected how many rows a second has, above 0 and up to {MAX_FPS:g}")
        features = document.get("features")
        if not isinstance(features, dict):
            raise ValueError(f"features is {type(features).__name__}; expected an object of features by name")
        read = {key: _feature(key, entry) for key, entry in features.items()}
        for key in (STATE, ACTION):
            if key not in read or len(read[key].shape) != 1 or read[key].is_camera:
                raise ValueError(f"features are {listed(tuple(read))}; expected a vector '{key}' among them")
        templates = [document.get(name) or default for name, default in (("data_path", DATA), ("video_path", VIDEO))]
    return SetInfo(folder, float(fps), read, *map(str, templates))


def _check_version(folder: Path, version: object) -> None:
    major = str(version).removeprefix("v").partition(".")[0]
    if major == "3":
        return
    where = f"{folder / INFO}: codebase_version is {quoted(repr(version))}; expected {VERSION}"
    if major == "2":
        command = f"{_CONVERTER} --repo-id={folder.name} --root={folder} --push-to-hub=false"
        raise ValueError(f"{where}: convert it with {command}")
    raise ValueError(f"{where}: make it again with LeRobot 0.4 or newer, or convert it to that")


def _feature(key: str, entry: Any) -> Feature:
    if not isinstance(entry, dict):
        raise ValueError(f"feature '{quoted(key)}' is {type(entry).__name__}; expected an object")
    shape = entry.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"feature '{quoted(key)}' has shape {quoted(repr(shape))}; expected whole numbers above 0")
    return Feature(key, str(entry.get("dtype")), tuple(shape), _names(entry.get("names"), shape))


def _names(names: Any, shape: list[int]) -> tuple[str, ...]:
    """A list, or one in an object as older writers have it; none where they don't fit the shape."""
    if isinstance(names, dict):
        values = list(names.values())
        names = values[0] if len(values) == 1 else None
    if not isinstance(names, list) or len(shape) != 1 or len(names) != shape[0]:
        return ()
    return tuple(map(str, names))
