"""Recordings, one after the other, through the readers of training: what each says, for ``judge``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ros import topics
from vla_ros.bags.files import find_bags
from vla_ros.bags.read import BagReader
from vla_ros.check.recorded.seen import RecordingSeen, Watch
from vla_ros.recordings.feed import LEARNED, Feed
from vla_ros.robot import RobotConfig
from vla_ros.strict import listed
from vla_ros.training.config import SetConfig
from vla_ros.training.episodes import FrameRule
from vla_ros.types import Frame

SET_INFO = "meta/info.json"


@dataclass(frozen=True)
class FoundRecordings:
    """``others`` are names of what lies among them and is neither a bag nor a set."""

    bags: tuple[Path, ...]
    sets: tuple[Path, ...]
    others: tuple[str, ...]


def find_recordings(paths: Sequence[Path]) -> FoundRecordings:
    """The bags in ``paths``, as ``find_bags``, and those of them that are LeRobot data sets. Raises ValueError where
    there is neither."""
    sets = tuple(path for path in paths if (path / SET_INFO).is_file())
    found = find_bags(*(path for path in paths if path not in sets))
    if not (found.bags or sets):
        places = listed([str(path) for path in paths])
        raise ValueError(
            f"{places} holds no recording; expected rosbag2 bags, folders of them, or a LeRobot data set ({SET_INFO})"
        )
    return FoundRecordings(found.bags, sets, found.others)


def look_at(source: Path | SetConfig, robot: RobotConfig, rule: FrameRule) -> RecordingSeen:
    """Read a bag or a set as far as it can be read; what is wrong with it is in what is returned."""
    if isinstance(source, SetConfig):
        from vla_ros.check.recorded.sets import look_at_set  # takes libraries that bags don't need

        return look_at_set(source, robot, rule)
    return _look_at_bag(source, robot, rule)


def _look_at_bag(path: Path, robot: RobotConfig, rule: FrameRule) -> RecordingSeen:
    seen = RecordingSeen.of(path.name, robot)
    needed = (topics.EPISODE_MARKER.name,) if rule.episodes == "marker" else ()
    try:
        feed = Feed(BagReader(path), robot, rule.namespace, LEARNED, needed)
    except ValueError as error:
        seen.refusal = _without(path, str(error))
        return seen
    watch = Watch(robot, rule, seen, sees_pixels=True)
    damage: list[str] = []
    try:
        for event in feed:
            if isinstance(event.said, Frame) and not seen.cameras[event.said.camera].num:
                damage += _undecodable(event.said)
            watch.take(event)
    except ValueError as error:
        damage.append(str(error))
    watch.pause()
    lines = dict.fromkeys((*feed.problems, *watch.problems, *damage))
    seen.problems = tuple(_without(path, line) for line in lines)
    return seen


def _undecodable(frame: Frame) -> Iterator[str]:
    try:
        frame.image  # noqa: B018
    except ValueError as error:
        yield f"camera '{frame.camera}': {error}"


def _without(path: Path, line: str) -> str:
    """A line without its recording, which a page names in its place."""
    return line.removeprefix(f"bag {path}: ").removeprefix(f"{path}: ").replace(f"{path}/", "")
