"""Single pictures of a LeRobot data set, by the place that ``SetFeed`` gives a frame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.recordings.lerobot.dataset import LeRobotSet, decode_picture
from vla_ros.recordings.lerobot.info import Feature
from vla_ros.recordings.lerobot.video import VideoReader
from vla_ros.types import Place
from vla_ros.units import NS_PER_S

NUM_OPEN = 8


class SetPictures:
    """Those of ``features``, one for each of the robot's cameras, for use by one thread. So many videos are open at a
    time; of pictures that are files in the rows, those of one episode are kept."""

    def __init__(self, source: LeRobotSet, features: Sequence[Feature]) -> None:
        self._source, self._features = source, features
        self._episodes = {episode.index: episode for episode in source.episodes}
        self._open: OrderedDict[Path, VideoReader] = OrderedDict()
        self._kept: dict[str, tuple[int, Sequence[Mapping[str, Any]]]] = {}

    def picture(self, camera: int, place: Place) -> np.ndarray:
        """RGB uint8 ``[height, width, 3]``. Raises ValueError where it can't be decoded."""
        index, row, time_ns = place
        episode, feature = self._episodes[index], self._features[camera]
        if feature.dtype == "image":
            if self._kept.get(feature.key, (None,))[0] != index:
                self._kept[feature.key] = index, self._source.stored_pictures(feature, episode)
            where = f"{episode.data_file}: {feature.key}"
            image = decode_picture(self._kept[feature.key][1][row], where)
        else:
            video = episode.videos[feature.key]
            whose = f", for row {row} of {episode.length}"
            image = self._video(video.file).frame_at(video.start_s + time_ns / NS_PER_S, whose)
        self._source.check_size(feature, image)
        return image

    def close(self) -> None:
        for video in self._open.values():
            video.close()
        self._open.clear()

    def _video(self, file: Path) -> VideoReader:
        if file not in self._open:
            self._open[file] = VideoReader(file, 0.5 / self._source.info.fps)
        self._open.move_to_end(file)
        if len(self._open) > NUM_OPEN:
            self._open.popitem(last=False)[1].close()
        return self._open[file]
