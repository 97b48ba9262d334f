"""A LeRobot data set on disk: its tasks and episodes, and the rows of each.

Nothing is copied into memory but the numbers of one file at a time; pictures are decoded one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.recordings.lerobot.info import ACTION, STATE, TASKS, Feature, SetInfo, read_info
from vla_ros.recordings.lerobot.video import VideoReader, decode_frames
from vla_ros.strict import explained, listed, one_line

INDEX = "__index_level_0__"  # what pandas calls one without a name
_EPISODE = ("episode_index", "length", "data/chunk_index", "data/file_index")
_DAMAGE = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True)
class VideoPart:
    """The pictures of one camera in one episode: from ``start_s`` on in ``file``."""

    file: Path
    start_s: float


@dataclass(frozen=True)
class SetEpisode:
    """``outcome`` is ``success`` or ``failure``, empty where nobody said."""

    index: int
    length: int
    data_file: Path
    videos: Mapping[str, VideoPart]
    outcome: str = ""


@dataclass(frozen=True)
class Rows:
    """An episode's, column by column: ``times_s`` ``[num_rows]`` from its start, ``states`` and ``actions``
    ``[num_rows, size]`` float64, ``tasks`` the instruction of each; ``others`` are further columns, ``pictures`` those
    that hold pictures as files."""

    times_s: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    tasks: tuple[str, ...]
    others: Mapping[str, np.ndarray]
    pictures: Mapping[str, Sequence[Mapping[str, Any]]]


class LeRobotSet:
    """The set in ``folder``. Raises ValueError, in one line, for one that can't be read: another version, files that
    are missing or cut off, tasks without their text, an episode without a frame."""

    def __init__(self, folder: str | Path, tasks: Mapping[int, str] | None = None) -> None:
        """``tasks`` are taken for its instructions by their number, where its own are of no use."""
        self.info: SetInfo = read_info(Path(folder))
        self._last: tuple[tuple[Path, tuple[str, ...], int], pa.Table] | None = None
        self.tasks = read_tasks(Path(folder)) if tasks is None else tasks
        self.episodes = self._read_episodes()

    @property
    def folder(self) -> Path:
        return self.info.folder

    def rows(self, episode: SetEpisode, columns: Sequence[str] = (), pictures: Sequence[str] = ()) -> Rows:
        """Those of ``episode``, with further ``columns`` where the set has them. Raises ValueError for a damaged file,
        rows that are missing, and states or actions that are not finite."""
        file, features = episode.data_file, self.info.features
        others = [key for key in columns if key in features]
        table = self._numbers(file, ("episode_index", STATE, ACTION, "timestamp", "task_index", *others), episode.index)
        where = f"{file}: episode {episode.index}"
        if len(table) != episode.length:
            raise ValueError(f"{where} has {len(table)} rows; expected {episode.length}: copy or download it again")
        values = {key: _numbers(table, key, features[key], where) for key in (STATE, ACTION)}
        times_s = table["timestamp"].to_numpy().astype(np.float64)
        if not (np.diff(times_s) > 0).all():
            raise ValueError(f"{where}: timestamps don't increase; expected each later than the one before, s")
        numbers = table["task_index"].to_pylist()
        unknown = [number for number in numbers if number not in self.tasks]
        if unknown:
            raise ValueError(f"{where} has task_index {unknown[0]}; {TASKS} has {listed(tuple(map(str, self.tasks)))}")
        return Rows(
            times_s=times_s,
            states=values[STATE],
            actions=values[ACTION],
            tasks=tuple(self.tasks[number] for number in numbers),
            others={key: np.array(table[key].to_pylist()) for key in others},
            pictures={key: self.stored_pictures(features[key], episode) for key in pictures},
        )

    def pictures(self, feature: Feature, episode: SetEpisode, rows: Rows) -> Iterator[np.ndarray]:
        """One for each of ``rows``, RGB uint8 ``[height, width, 3]``. Raises ValueError for a video that is damaged or
        has fewer than there are rows."""
        if feature.dtype == "image":
            images: Iterator[np.ndarray] = (
                decode_picture(entry, f"{episode.data_file}: {feature.key}") for entry in rows.pictures[feature.key]
            )
        else:
            video = episode.videos[feature.key]
            images = decode_frames(video.file, video.start_s + rows.times_s, 0.5 / self.info.fps)
        for image in images:
            self.check_size(feature, image)
            yield image

    def check_size(self, feature: Feature, image: np.ndarray) -> None:
        """Raises ValueError for a picture of another size than ``info.json`` says."""
        if image.shape[:2] != feature.image_size:
            got, expected = (f"{size[1]}x{size[0]}" for size in (image.shape, feature.image_size))
            raise ValueError(f"{self.folder}: a picture of {feature.key} has {got} pixels; expected {expected}")

    def stored_pictures(self, feature: Feature, episode: SetEpisode) -> Sequence[Mapping[str, Any]]:
        """An episode's pictures of a feature that holds them as files, for ``decode_picture``."""
        table = _read(episode.data_file, [feature.key], episode.index)
        return list(table[feature.key].to_pylist())

    def check_videos(self, features: Sequence[Feature]) -> None:
        """Raises ValueError for a video of ``features`` that is missing, cut off, or has fewer frames than there are
        rows, as far as it is known before any is decoded."""
        num_rows: Counter[Path] = Counter()
        for episode in self.episodes:
            for feature in features:
                if feature.dtype == "video":
                    num_rows[episode.videos[feature.key].file] += episode.length
        for file, num in num_rows.items():
            with VideoReader(file, 0.5 / self.info.fps) as video:
                if video.num_frames is not None and video.num_frames < num:
                    got = f"{file} has {video.num_frames} frames"
                    raise ValueError(f"{got}; expected {num}, one for each row: it is cut off, or not of this set")

    def _numbers(self, file: Path, columns: tuple[str, ...], episode: int) -> pa.Table:
        """Of one episode. A file is read as a whole, once: it may hold many episodes without a way to one of them."""
        key = file, columns, file.stat().st_mtime_ns if file.is_file() else 0
        if self._last is None or self._last[0] != key:
            self._last = key, _read(file, columns)
        table = self._last[1]
        return table.take(np.flatnonzero(table["episode_index"].to_numpy() == episode))

    def _read_episodes(self) -> tuple[SetEpisode, ...]:
        folder = self.folder / "meta" / "episodes"
        files = sorted(folder.glob("*/*.parquet"))
        if not files:
            raise ValueError(f"{folder} holds no parquet file; expected the set's episodes: copy or download it again")
        episodes = [self._episode(row, file) for file in files for row in _read_episode_rows(file)]
        episodes.sort(key=lambda episode: episode.index)
        twice = [one.index for one, other in zip(episodes, episodes[1:], strict=False) if one.index == other.index]
        if twice or not episodes:
            got = f"episode {twice[0]} twice" if twice else "no episode"
            raise ValueError(f"{folder} has {got}; expected each once: copy or download it again")
        return tuple(episodes)

    def _episode(self, row: Mapping[str, Any], file: Path) -> SetEpisode:
        videos = [feature.key for feature in self.info.cameras if feature.dtype == "video"]
        parts = {
            key: [f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")] for key in videos
        }
        needed = [*_EPISODE, *(name for names in parts.values() for name in names)]
        missing = [name for name in needed if row.get(name) is None]
        if missing:
            raise ValueError(f"{file}: '{missing[0]}' is missing; expected it of each episode")
        index, length, chunk, number = (int(row[name]) for name in _EPISODE)
        if length < 1:
            raise ValueError(f"{file}: episode {index} has {length} frames; expected at least one: delete that episode")
        return SetEpisode(
            index,
            length,
            self.info.data_file(chunk, number),
            {
                key: VideoPart(self.info.video_file(key, int(row[names[0]]), int(row[names[1]])), float(row[names[2]]))
                for key, names in parts.items()
            },
            str(row.get("outcome") or ""),
        )


def read_tasks(folder: Path) -> dict[int, str]:
    """The instructions of the set in ``folder`` by their number. Raises ValueError where they can't be read, or their
    text is lost."""
    path = folder / TASKS
    table = _read(path)
    names = table.column_names
    text = next((name for name in ("task", INDEX) if name in names), None)
    if text is None or "task_index" not in names:
        expected = "expected task_index, and the instructions as its index: write it with pandas' to_parquet"
        raise ValueError(f"{path} has columns {listed(names)}; {expected}")
    texts, numbers = table[text].to_pylist(), table["task_index"].to_pylist()
    if not all(isinstance(task, str) for task in texts):
        raise ValueError(f"{path}: an instruction is {texts[0]!r}; expected text: its index was lost")
    return dict(zip(numbers, texts, strict=True))


def _read_episode_rows(file: Path) -> list[dict[str, Any]]:
    """Without their statistics, which are most of it."""
    with explained(f"{file}: damaged (", *_DAMAGE, after="); copy or download it again"):
        columns = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
    return _read(file, columns).to_pylist()


def _read(path: Path, columns: Sequence[str] | None = None, episode: int | None = None) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected it of a LeRobot data set: copy or download it again")
    filters = None if episode is None else [("episode_index", "==", episode)]
    try:
        return pq.read_table(
            path, columns=None if columns is None else list(columns), filters=filters, partitioning=None
        )
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged ({one_line(error, 200)}); copy or download it again") from error


def _numbers(table: pa.Table, key: str, feature: Feature, where: str) -> np.ndarray:
    column, (size,) = table[key].combine_chunks(), feature.shape
    flat = (
        column.flatten() if isinstance(column.type, pa.ListType | pa.FixedSizeListType | pa.LargeListType) else column
    )
    with explained(f"{where}: {key} holds no numbers (", pa.ArrowException, TypeError, ValueError, after=")"):
        values = np.asarray(flat.to_numpy(zero_copy_only=False), np.float64)
    if values.size != len(table) * size:
        got = f"{values.size / max(len(table), 1):.3g} numbers a row"
        raise ValueError(f"{where}: {key} has {got}; expected {size}: copy or download it again")
    values = values.reshape(len(table), size)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = broken[0]
        named = feature.names[column] if feature.names else f"number {column}"
        got = f"{key} is {values[row, column]} for {named} in frame {row}"
        raise ValueError(f"{where}: {got}; expected finite numbers: delete that episode")
    return values


def decode_picture(entry: Mapping[str, Any] | None, where: str) -> np.ndarray:
    """RGB uint8 ``[height, width, 3]``. Raises ValueError, saying ``where``."""
    data = np.frombuffer((entry or {}).get("bytes") or b"", np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
    if image is None:
        raise ValueError(f"{where} holds a picture that can't be decoded; expected a PNG or JPEG in it")
    return np.asarray(image)
