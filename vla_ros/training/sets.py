"""LeRobot data sets to train on, opened for a robot."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from vla_ros.policies.importing.declaring import SpaceFile, joints_of, read_space
from vla_ros.recordings.lerobot.dataset import LeRobotSet
from vla_ros.recordings.lerobot.feed import SetFeed
from vla_ros.recordings.lerobot.info import INFO
from vla_ros.recordings.lerobot.mapping import SetMapping, SetSpace, check_limits, map_set, read_notes
from vla_ros.recordings.lerobot.pictures import SetPictures
from vla_ros.robot import RobotConfig
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.space import parse_space
from vla_ros.strict import explained
from vla_ros.training.config import SetConfig
from vla_ros.training.pictures import Recorded


def open_set(config: SetConfig, robot: RobotConfig, decodes: bool = True) -> SetFeed:
    """Its events, which have pixels where it ``decodes``. Raises ValueError for a set that can't be read, isn't of this
    robot, or whose numbers can't be what the space says."""
    source = LeRobotSet(Path(config.path))
    mapping = map_config(source, config, robot)
    check_limits(source, mapping, robot)
    source.check_videos(list(mapping.cameras.values()))
    return SetFeed(source, robot, mapping, decodes)


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
    """Which joints and cameras of ``robot`` the features of ``source`` are: as the space of ``config`` says, else as
    the set does that this package wrote, else by name. Raises ValueError where they don't fit."""
    joints = replace(joints_of(robot), chunk_dt_s=1.0 / source.info.fps)
    notes = read_notes(source)
    space = SetSpace(cameras=config.cameras)
    if config.space:
        with explained(f"{source.folder}: --space {config.space}: "):
            space = _declared(source, read_space(config.space), joints, config)
    elif notes.get("state") and notes.get("action"):
        with explained(f"{source.folder}: what it says of its numbers: "):
            space = _declared(source, SpaceFile(tuple(notes["state"]), tuple(notes["action"])), joints, config)
    return map_set(source, robot, joints, space)


def _declared(source: LeRobotSet, file: SpaceFile, joints: RobotJoints, config: SetConfig) -> SetSpace:
    """A space's slots are cameras of the set where it has some of that name."""
    there = {name for feature in source.info.cameras for name in (feature.key, feature.key.rpartition(".")[2])}
    slots = {str(slot.get("key")): str(slot["camera"]) for slot in file.cameras if slot.get("camera")}
    slots = {key: name for key, name in slots.items() if key in there and name not in config.cameras.values()}
    state, action = parse_space(file.state, "data.state", joints), parse_space(file.action, "data.action", joints)
    name = f"space {config.space}" if config.space else "what it says itself"
    return SetSpace(name, state, action, {**slots, **config.cameras})
