"""LeRobot data sets to train on, as a train config has them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vla_ros.recordings.lerobot import opening
from vla_ros.recordings.lerobot.dataset import LeRobotSet
from vla_ros.recordings.lerobot.feed import SetFeed
from vla_ros.recordings.lerobot.info import INFO
from vla_ros.recordings.lerobot.mapping import SetMapping
from vla_ros.recordings.lerobot.opening import SetMeaning
from vla_ros.recordings.lerobot.pictures import SetPictures
from vla_ros.robot import RobotConfig
from vla_ros.training.config import SetConfig
from vla_ros.training.pictures import Recorded


def open_set(config: SetConfig, robot: RobotConfig, decodes: bool = True) -> SetFeed:
    """Its events, which have pixels where it ``decodes``. Raises ValueError for a set that can't be read, isn't of this
    robot, or whose numbers can't be what the space says, and for videos that have too few frames."""
    feed = opening.open_set(Path(config.path), SetMeaning(config.space, config.cameras), robot, decodes)
    feed.source.check_videos(list(feed.mapping.cameras.values()))
    return feed


def set_pictures(config: SetConfig, robot: RobotConfig) -> Recorded:
    """Its pictures, one by one."""
    source = LeRobotSet(Path(config.path))
    features = list(map_config(source, config, robot).cameras.values())
    files = {source.folder / INFO, *(episode.data_file for episode in source.episodes)}
    for episode in source.episodes:
        files.update(episode.videos[feature.key].file for feature in features if feature.dtype == "video")
    opened = partial(SetPictures, source, features)
    return Recorded(str(source.folder), tuple(sorted(files)), opened, goes_by_camera=True)


def map_config(source: LeRobotSet, config: SetConfig, robot: RobotConfig) -> SetMapping:
    """Which joints and cameras of ``robot`` the features of ``source`` are. Raises ValueError where they don't fit."""
    return opening.map_by(source, SetMeaning(config.space, config.cameras), robot)
