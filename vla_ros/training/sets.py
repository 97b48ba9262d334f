"""LeRobot data sets to train on, as a train config has them."""

from __future__ import annotations

from pathlib import Path

from vla_ros.recordings.lerobot import opening
from vla_ros.recordings.lerobot.dataset import LeRobotSet
from vla_ros.recordings.lerobot.feed import SetFeed
from vla_ros.recordings.lerobot.mapping import SetMapping
from vla_ros.recordings.lerobot.opening import SetMeaning
from vla_ros.robot import RobotConfig
from vla_ros.training.config import SetConfig


def open_set(config: SetConfig, robot: RobotConfig) -> SetFeed:
    """Its events. Raises ValueError for a set that can't be read, isn't of this robot, or whose numbers can't be what
    the space says."""
    return opening.open_set(Path(config.path), SetMeaning(config.space, config.cameras), robot)


def map_config(source: LeRobotSet, config: SetConfig, robot: RobotConfig) -> SetMapping:
    """Which joints and cameras of ``robot`` the features of ``source`` are. Raises ValueError where they don't fit."""
    return opening.map_by(source, SetMeaning(config.space, config.cameras), robot)
