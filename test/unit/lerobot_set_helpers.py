"""The LeRobot data set of ``test/data``, and what may be wrong with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SET = Path(__file__).parents[1] / "data" / "lerobot_set"
NUM_ROWS, FPS = 24, 10
FRONT = "observation.images.front"


def copy_of(folder: Path) -> Path:
    """A set of one's own to break."""
    return Path(shutil.copytree(SET, folder / "set"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_info(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "meta/info.json", change)


def parquet(folder: Path, kind: str, episode: int = 0) -> Path:
    """The data, or the entry, of an episode."""
    return folder / kind / f"chunk-000/file-{episode:03d}.parquet"


def set_value(kind: str, key: str, row: int, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change one value of a column of the first episode."""

    def edit(folder: Path) -> None:
        path = parquet(folder, kind)
        table = pq.read_table(path)
        values = table[key].to_pylist()
        values[row] = change(values[row])
        column = table.column_names.index(key)
        pq.write_table(table.set_column(column, key, pa.array(values, table.schema.field(key).type)), path)

    return edit


def add_column(folder: Path, key: str, dtype: str, values: list[Any], episode: int = 0) -> None:
    path = parquet(folder, "data", episode)
    pq.write_table(pq.read_table(path).append_column(key, pa.array(values)), path)
    edit_info(lambda info: info["features"].update({key: {"dtype": dtype, "shape": [1], "names": None}}))(folder)


def drop_rows(folder: Path) -> None:
    path = parquet(folder, "data")
    pq.write_table(pq.read_table(path).slice(0, NUM_ROWS - 4), path)


def cut(name: str) -> Callable[[Path], None]:
    """Only the first two thirds of a file have arrived."""

    def edit(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: 2 * len(data) // 3])

    return edit


def lose_index(folder: Path) -> None:
    """As pandas writes tasks without their index."""
    pq.write_table(pq.read_table(folder / "meta/tasks.parquet", columns=["task_index"]), folder / "meta/tasks.parquet")


def shorten_video(folder: Path) -> None:
    from vla_ros.recordings.lerobot.video import VideoWriter

    file = folder / f"videos/{FRONT}/chunk-000/file-001.mp4"
    file.unlink()
    with VideoWriter(file, FPS, 640, 480, "h264") as video:
        for _ in range(NUM_ROWS - 3):
            video.add(np.zeros((480, 640, 3), np.uint8))


def name_joints(key: str, *names: str) -> Callable[[Path], None]:
    def change(document: dict[str, Any]) -> None:
        document["features"][key]["names"] = list(names)

    return edit_info(change)
