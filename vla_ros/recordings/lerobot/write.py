"""A LeRobot data set (v3) that grows episode by episode and is whole after each.

Each episode has files of its own, which the format permits, and its entry in ``meta/episodes`` is the last of them: a
process that is killed leaves a set without the episode it was at, and another one goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.recordings.lerobot.info import (
    ACTION,
    DATA,
    DRIVER,
    EPISODES,
    IMAGES,
    INFO,
    INTERVENTION,
    NOTES,
    STAMPS,
    STATE,
    TASKS,
    VERSION,
    VIDEO,
)
from vla_ros.recordings.lerobot.stats import PictureStats, Stats, stats_of, together
from vla_ros.recordings.lerobot.video import VideoWriter
from vla_ros.strict import explained, parse_json, read_text

STATS = "meta/stats.json"
FILES_PER_CHUNK = 1000
OUTCOME, SOURCE, SOURCE_EPISODE = "outcome", "source", "source_episode"
_INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class SetLayout:
    """What a set is to hold: names of the numbers of a state and of an action, (height, width) of each camera, rows in
    a second; ``codec`` is one of ``video.CODECS``. ``notes`` are kept beside it, and have to be the same to go on."""

    robot_name: str
    fps: float
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: Mapping[str, tuple[int, int]]
    codec: str
    notes: Mapping[str, Any]

    def features(self) -> dict[str, dict[str, Any]]:
        """As info.json has them."""
        video = {"video.codec": self.codec, "video.pix_fmt": "yuv420p", "video.fps": self.fps, "has_audio": False}
        found: dict[str, dict[str, Any]] = {
            STATE: _feature("float32", len(self.state_names), self.state_names),
            ACTION: _feature("float32", len(self.action_names), self.action_names),
        }
        for name, (height, width) in self.cameras.items():
            info = {"video.height": height, "video.width": width, "video.channels": 3, "is_depth_map": False, **video}
            names, shape = ["height", "width", "channels"], [height, width, 3]
            found[IMAGES + name] = {"dtype": "video", "shape": shape, "names": names, "info": info}
        found[INTERVENTION], found[DRIVER] = _feature("bool", 1), _feature("string", 1)
        found[STAMPS] = _feature("int64", 1 + len(self.cameras), ("row", *self.cameras))
        return found | {name: _feature("float32" if name == "timestamp" else "int64", 1) for name in _INDICES}


@dataclass(frozen=True)
class EpisodeRows:
    """What an episode's rows hold: ``states`` and ``actions`` ``[num_rows, size]``; of each row its instruction, who
    drove (a mode's name, empty where nobody says), whether that was an intervention, and ``stamps_ns`` ``[num_rows, 1 +
    num_cameras]``: its own time and those of its pictures."""

    states: np.ndarray
    actions: np.ndarray
    tasks: Sequence[str]
    drivers: Sequence[str]
    interventions: Sequence[bool]
    stamps_ns: np.ndarray


class SetWriter:
    """Writes the set in ``folder``, or goes on with it. Raises ValueError for a folder that holds other things, or a
    set that was begun otherwise."""

    def __init__(self, folder: Path, layout: SetLayout) -> None:
        self.folder, self._layout = folder, layout
        self._partial = folder / ".partial"
        notes = json.dumps({"fps": layout.fps, "codec": layout.codec, **layout.notes}, indent=1, sort_keys=True)
        path = folder / NOTES
        there = [entry for entry in folder.iterdir() if entry != self._partial] if folder.is_dir() else []
        if there and not path.is_file():
            raise ValueError(f"{folder} is not empty; give a folder that doesn't exist yet, or a set to go on with")
        if there and (changed := _changed(path, notes)):
            raise ValueError(
                f"{folder} was begun with another {changed}; give what it was begun with, or another folder"
            )
        shutil.rmtree(self._partial, ignore_errors=True)
        with explained(f"{folder}: ", OSError, after="; give a folder that can be written"):
            self._partial.mkdir(parents=True)
            path.parent.mkdir(exist_ok=True)
            path.write_text(notes)
        self._done = [pq.read_table(file) for file in sorted((folder / "meta" / "episodes").glob("*/*.parquet"))]
        tasks = pq.read_table(folder / TASKS)["task"].to_pylist() if (folder / TASKS).is_file() else []
        self._tasks: dict[str, int] = {task: number for number, task in enumerate(tasks)}
        self.num_rows = sum(table["length"][0].as_py() for table in self._done)
        self.sources = {(table[SOURCE][0].as_py(), table[SOURCE_EPISODE][0].as_py()) for table in self._done}
        """Which episodes of which source are in it."""

    @property
    def num_episodes(self) -> int:
        return len(self._done)

    def begin(self) -> EpisodeWriter:
        """The next episode. One at a time."""
        return EpisodeWriter(self._partial, self._layout)

    def add(self, episode: EpisodeWriter, rows: EpisodeRows, outcome: str, source: str, source_episode: int) -> None:
        """Put an episode, whose pictures are complete, into the set: ``outcome`` is ``success``, ``failure`` or empty;
        ``source`` says where it comes from. Raises ValueError where the disk is full."""
        with explained(f"{self.folder}: ", OSError, pa.ArrowException, after="; give a disk with more space"):
            pictures = episode.finish()
            number, place = self.num_episodes, dict(zip(("chunk_index", "file_index"), self._place(), strict=True))
            for name in self._layout.cameras:
                video = self.folder / VIDEO.format(video_key=IMAGES + name, **place)
                video.parent.mkdir(parents=True, exist_ok=True)
                os.replace(episode.file(name), video)
            for task in dict.fromkeys(rows.tasks):
                self._tasks.setdefault(task, len(self._tasks))
            columns = self._columns(rows, number)
            self._write(pa.table(columns), DATA.format(**place))
            self._write(_task_table(self._tasks), TASKS)
            stats = {
                key: stats_of(np.array(columns[key].to_pylist())) for key in columns if key not in (DRIVER, STAMPS)
            }
            stats |= {IMAGES + name: found for name, found in pictures.items()}
            entry = self._entry(rows, number, place) | {
                OUTCOME: outcome,
                SOURCE: source,
                SOURCE_EPISODE: source_episode,
            }
            flat = {f"stats/{key}/{name}": value.tolist() for key, own in stats.items() for name, value in own.items()}
            table = pa.table({name: [value] for name, value in (entry | flat).items()})
            self._write(table, EPISODES.format(**place))
            self._done.append(table)
            self.num_rows += len(rows.tasks)
            self.sources.add((source, source_episode))
            self._write_info()

    def finish(self) -> None:
        """Write the statistics of the whole set; of states and actions from all rows."""
        with explained(f"{self.folder}: ", OSError, pa.ArrowException, after="; give a disk with more space"):
            self._write_info()
            if self._done:
                stats = {
                    key: {name: value.tolist() for name, value in own.items()} for key, own in self._stats().items()
                }
                _replace(self.folder / STATS, json.dumps(stats, indent=1).encode())
            shutil.rmtree(self._partial, ignore_errors=True)

    def _stats(self) -> dict[str, Stats]:
        keys = [key for key in self._layout.features() if key not in (DRIVER, STAMPS)]
        found = {key: together([_stats_in(table, key) for table in self._done]) for key in keys}
        files = sorted((self.folder / "data").glob("*/*.parquet"))
        for key in (STATE, ACTION):
            parts = [np.array(pq.read_table(file, columns=[key])[key].to_pylist(), np.float32) for file in files]
            found[key] = stats_of(np.concatenate(parts))
        return found

    def _place(self) -> tuple[int, int]:
        return divmod(self.num_episodes, FILES_PER_CHUNK)

    def _columns(self, rows: EpisodeRows, number: int) -> dict[str, pa.Array]:
        num = len(rows.tasks)
        frames = np.arange(num)
        return {
            STATE: _vectors(rows.states, pa.float32()),
            ACTION: _vectors(rows.actions, pa.float32()),
            INTERVENTION: pa.array(list(rows.interventions), pa.bool_()),
            DRIVER: pa.array(list(rows.drivers), pa.string()),
            STAMPS: _vectors(rows.stamps_ns, pa.int64()),
            "timestamp": pa.array(frames / self._layout.fps, pa.float32()),
            "frame_index": pa.array(frames),
            "episode_index": pa.array(np.full(num, number)),
            "index": pa.array(self.num_rows + frames),
            "task_index": pa.array([self._tasks[task] for task in rows.tasks], pa.int64()),
        }

    def _entry(self, rows: EpisodeRows, number: int, place: Mapping[str, int]) -> dict[str, Any]:
        num = len(rows.tasks)
        entry: dict[str, Any] = {"episode_index": number, "tasks": list(dict.fromkeys(rows.tasks)), "length": num}
        entry |= {"dataset_from_index": self.num_rows, "dataset_to_index": self.num_rows + num}
        for prefix in ("data", "meta/episodes", *(f"videos/{IMAGES}{name}" for name in self._layout.cameras)):
            entry |= {f"{prefix}/{key}": value for key, value in place.items()}
            if prefix.startswith("videos/"):
                entry |= {f"{prefix}/from_timestamp": 0.0, f"{prefix}/to_timestamp": num / self._layout.fps}
        return entry

    def _write(self, table: pa.Table, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._partial / path.name
        # An episode's statistics are a column each, which what parquet may add to them would make thrice as large.
        pq.write_table(
            table, partial, use_dictionary=False, write_statistics=["episode_index"], store_schema=name == TASKS
        )
        os.replace(partial, path)

    def _write_info(self) -> None:
        fps = self._layout.fps
        document = {
            "codebase_version": VERSION,
            "robot_type": self._layout.robot_name,
            "total_episodes": self.num_episodes,
            "total_frames": self.num_rows,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(fps) if fps == int(fps) else fps,
            "splits": {"train": f"0:{self.num_episodes}"},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": self._layout.features(),
        }
        _replace(self.folder / INFO, json.dumps(document, indent=1).encode())


class EpisodeWriter:
    """Takes an episode's pictures, as they come, and packs them; nothing of it is in the set yet."""

    def __init__(self, partial: Path, layout: SetLayout) -> None:
        self._partial, self._layout = partial, layout
        self._stack = ExitStack()
        self._videos: dict[str, VideoWriter] = {}
        self._stats = {name: PictureStats() for name in layout.cameras}

    def file(self, camera: str) -> Path:
        """Where the pictures of ``camera`` are for now."""
        return self._partial / f"{camera}.mp4"

    def add(self, images: Mapping[str, np.ndarray]) -> None:
        """A row's pictures by camera, RGB uint8 ``[height, width, 3]``."""
        for name, image in images.items():
            if name not in self._videos:
                self._open(name)
            self._videos[name].add(image)
            self._stats[name].add(image)

    def finish(self) -> dict[str, Stats]:
        """Close the videos; the statistics of each camera."""
        self._stack.close()
        return {name: stats.stats() for name, stats in self._stats.items()}

    def drop(self) -> None:
        """Nothing becomes of it."""
        self._stack.close()

    def _open(self, name: str) -> None:
        self.file(name).unlink(missing_ok=True)
        height, width = self._layout.cameras[name]
        video = VideoWriter(self.file(name), self._layout.fps, width, height, self._layout.codec)
        self._videos[name] = self._stack.enter_context(video)


def _feature(dtype: str, size: int, names: Sequence[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [size], "names": None if names is None else list(names)}


def _vectors(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1).astype(kind.to_pandas_dtype()), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _task_table(tasks: Mapping[str, int]) -> pa.Table:
    """With the instructions as its index, as pandas reads it."""
    table = pa.table({"task_index": list(tasks.values()), "task": pa.array(list(tasks), pa.string())})
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, (kind, numpy) in kinds.items()
    ]
    said = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(said)})


def _stats_in(table: pa.Table, key: str) -> Stats:
    prefix = f"stats/{key}/"
    names = [name for name in table.column_names if name.startswith(prefix)]
    return {name.removeprefix(prefix): np.array(table[name][0].as_py()) for name in names}


def _changed(path: Path, notes: str) -> str:
    """Which notes differ from those in ``path``, empty where none does."""
    with explained(f"{path}: ", OSError, ValueError, after="; give another folder"):
        then, now = parse_json(read_text(path)), json.loads(notes)
    return ", ".join(sorted(key for key in {*then, *now} if then.get(key) != now.get(key)))


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
