"""Episodes of LeRobot data sets as recordings to replay: each has a path, ``SET/NAME.episode_N`` with the name of the
set, where no file lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.bags.files import bags_in, find_files
from vla_ros.bags.read import BagReader
from vla_ros.recordings.events import BagEvent
from vla_ros.recordings.feed import Feed
from vla_ros.recordings.series import MAX_GAP_S
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig

if TYPE_CHECKING:
    from vla_ros.recordings.lerobot.dataset import LeRobotSet, SetEpisode
    from vla_ros.recordings.lerobot.feed import SetFeed

INFO = "meta/info.json"
MARK = ".episode_"
LATE_PERIODS = 1.5


@dataclass(frozen=True)
class EpisodePath:
    """The episode of this ``index`` of the set in ``folder``."""

    folder: Path
    index: int

    @classmethod
    def of(cls, path: Path) -> EpisodePath | None:
        """None where ``path`` is another recording's."""
        name, _, number = path.name.rpartition(MARK)
        is_one = number.isdecimal() and name == path.parent.resolve().name and (path.parent / INFO).is_file()
        return cls(path.parent, int(number)) if is_one else None

    @property
    def path(self) -> Path:
        return self.folder / f"{self.folder.resolve().name}{MARK}{self.index}"


def recordings_in(path: Path) -> tuple[Path, ...]:
    """The bags in a folder of bags, the episodes of a LeRobot data set; of anything else the path itself. Raises
    ValueError for a set that can't be read."""
    if not (path / INFO).is_file():
        return bags_in(path)
    return tuple(EpisodePath(path, episode.index).path for episode in _set(path).episodes)


def recorded_files(path: Path) -> tuple[Path, ...]:
    """The files that a recording consists of: a bag's storage files; of an episode those of its set that hold it, and
    what says what they mean. Raises ValueError where there is none."""
    named = EpisodePath.of(path)
    if named is None:
        return find_files(path).paths
    episode = _episode(named)
    meta = (file for file in sorted((named.folder / "meta").rglob("*")) if file.is_file())
    return (episode.data_file, *(video.file for video in episode.videos.values()), *meta)


class EpisodeFeed:
    """The events of one episode for ``robot``, whose sensors may be as old as the set's rows are apart; iterate over it
    once.

    Raises ValueError for an episode that isn't there or can't be read, or a set that isn't of this robot.
    """

    def __init__(self, named: EpisodePath, robot: RobotConfig, settings: ReplaySettings) -> None:
        self._feed, self._episode = _opened(named.folder, robot, settings), _episode(named)
        fps = self._feed.source.info.fps
        if LATE_PERIODS / fps > MAX_GAP_S:
            got = f"{named.folder} has {fps:g} rows a second"
            raise ValueError(f"{got}; expected at least {LATE_PERIODS / MAX_GAP_S:g}: between them nothing is known")
        self._num_known = len(self._feed.problems)
        self.robot = _with_ages(robot, LATE_PERIODS / fps)
        self.length_s = self._episode.length / fps
        self._feed.check(self._episode)
        self.says_driver = self._feed.says_driver(self._episode)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each problem of this episode met so far."""
        return self._feed.problems[self._num_known :]

    def __iter__(self) -> Iterator[BagEvent]:
        """Raises ValueError for an episode that can't be read, or whose numbers are not finite."""
        return self._feed.episode(self._episode)


def recorded_events(path: Path, robot: RobotConfig, settings: ReplaySettings) -> Iterable[BagEvent]:
    """What a bag or an episode says of ``robot``. Raises ValueError where it can't be read."""
    named = EpisodePath.of(path)
    if named is None:
        return Feed(BagReader(path), robot, settings.namespace)
    return EpisodeFeed(named, robot, settings)


def _with_ages(robot: RobotConfig, age_s: float) -> RobotConfig:
    """A video of a scene at rest may have the very same picture again and again: no camera of it is frozen."""
    cameras = tuple(
        replace(camera, max_age_s=max(camera.max_age_s, age_s), max_frozen_s=0.0) for camera in robot.cameras
    )
    states = tuple(replace(source, max_age_s=max(source.max_age_s, age_s)) for source in robot.joint_states)
    return replace(robot, cameras=cameras, joint_states=states)


def _episode(named: EpisodePath) -> SetEpisode:
    for episode in _set(named.folder).episodes:
        if episode.index == named.index:
            return episode
    raise ValueError(f"{named.folder} has no episode {named.index}; expected one of meta/episodes")


def _set(folder: Path) -> LeRobotSet:
    """Read once for all its episodes, as long as its files are those that were read."""
    return _read_set(folder, _stamp(folder))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    stats = ((file, file.stat()) for file in sorted((folder / "meta").rglob("*")) if file.is_file())
    return tuple((str(file), found.st_size, found.st_mtime_ns) for file, found in stats)


@lru_cache(maxsize=2)
def _read_set(folder: Path, _: tuple[tuple[str, int, int], ...]) -> LeRobotSet:
    from vla_ros.recordings.lerobot.dataset import LeRobotSet  # takes libraries that bags don't need

    return LeRobotSet(folder)


_feeds: dict[str, SetFeed] = {}
MAX_FEEDS = 2
"""One for each policy: they may look at other cameras."""


def _opened(folder: Path, robot: RobotConfig, settings: ReplaySettings) -> SetFeed:
    """A set's events, opened once for all its episodes."""
    from vla_ros.recordings.lerobot.feed import SetFeed
    from vla_ros.recordings.lerobot.opening import SetMeaning, map_by

    key = repr((folder.resolve(), _stamp(folder), robot, settings.stored()))
    if key not in _feeds:
        meaning = SetMeaning(settings.set_space, settings.cameras_of_sets)
        source = _set(folder)
        feed = SetFeed(source, robot, map_by(source, meaning, robot))
        if len(_feeds) == MAX_FEEDS:
            del _feeds[next(iter(_feeds))]
        _feeds[key] = feed
    return _feeds[key]
