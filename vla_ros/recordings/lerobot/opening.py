"""A LeRobot data set, opened for a robot: by what its user says of its numbers, else by what it says itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vla_ros.recordings.lerobot import mapping
from vla_ros.recordings.lerobot.dataset import LeRobotSet
from vla_ros.recordings.lerobot.feed import SetFeed
from vla_ros.recordings.lerobot.mapping import SetMapping, SetSpace, check_limits, map_set, read_notes
from vla_ros.recordings.lerobot.poses import without_speeds
from vla_ros.robot import RobotConfig
from vla_ros.spaces.components import RobotJoints
from vla_ros.spaces.files import SpaceFile, joints_of, read_space
from vla_ros.spaces.space import parse_space
from vla_ros.strict import explained


@dataclass(frozen=True)
class SetMeaning:
    """What a set's numbers mean by ``space``, a preset or a file (empty: as it says itself, else joints in rad and m by
    name), and the robot's camera by the set's, where names differ."""

    space: str = ""
    cameras: Mapping[str, str] = field(default_factory=dict)


def open_set(folder: Path, meaning: SetMeaning, robot: RobotConfig, decodes: bool = True) -> SetFeed:
    """Its events, which have pixels where it ``decodes``. Raises ValueError for a set that can't be read, isn't of this
    robot, or whose numbers can't be what the space says."""
    source = LeRobotSet(folder)
    found = map_by(source, meaning, robot)
    check_limits(source, found, robot)
    return SetFeed(source, robot, found, decodes)


def map_by(source: LeRobotSet, meaning: SetMeaning, robot: RobotConfig) -> SetMapping:
    """Which joints and cameras of ``robot`` the features of ``source`` are. Raises ValueError where they don't fit."""
    return map_set(source, robot, *_declared(source, meaning, robot))


def map_what_fits(
    source: LeRobotSet, meaning: SetMeaning, robot: RobotConfig, report: Callable[[str], object]
) -> SetMapping | None:
    """As ``map_by``, where ``report`` hears all that doesn't fit. Raises ValueError for a space that can't be of this
    robot."""
    return mapping.map_what_fits(source, robot, *_declared(source, meaning, robot), report)


def _declared(source: LeRobotSet, meaning: SetMeaning, robot: RobotConfig) -> tuple[RobotJoints, SetSpace]:
    joints = without_speeds(replace(joints_of(robot), chunk_dt_s=1.0 / source.info.fps))
    notes = read_notes(source)
    space = SetSpace(cameras=meaning.cameras)
    if meaning.space:
        with explained(f"{source.folder}: --space {meaning.space}: "):
            space = _parsed(source, read_space(meaning.space), joints, meaning)
    elif notes.get("state") and notes.get("action"):
        with explained(f"{source.folder}: what it says of its numbers: "):
            space = _parsed(source, SpaceFile(tuple(notes["state"]), tuple(notes["action"])), joints, meaning)
    return joints, space


def _parsed(source: LeRobotSet, file: SpaceFile, joints: RobotJoints, meaning: SetMeaning) -> SetSpace:
    """A space's slots are cameras of the set where it has some of that name."""
    there = {name for feature in source.info.cameras for name in (feature.key, feature.key.rpartition(".")[2])}
    slots = {str(slot.get("key")): str(slot["camera"]) for slot in file.cameras if slot.get("camera")}
    slots = {key: name for key, name in slots.items() if key in there and name not in meaning.cameras.values()}
    state, action = parse_space(file.state, "data.state", joints), parse_space(file.action, "data.action", joints)
    name = f"space {meaning.space}" if meaning.space else "what it says itself"
    return SetSpace(name, state, action, {**slots, **meaning.cameras})
