"""A LeRobot data set, looked at as a whole: nothing ends at its first fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np

from vla_ros.bags.read import Tally
from vla_ros.check.recorded.seen import BLANK, RecordingSeen, Watch
from vla_ros.recordings.feed import without_numbers
from vla_ros.recordings.lerobot.dataset import LeRobotSet, Rows, SetEpisode, read_tasks
from vla_ros.recordings.lerobot.feed import SetFeed
from vla_ros.recordings.lerobot.info import Feature, read_info
from vla_ros.recordings.lerobot.mapping import SetMapping, check_poses, not_relative, seem_absolute
from vla_ros.recordings.lerobot.opening import SetMeaning, map_what_fits
from vla_ros.recordings.lerobot.video import SLACK, frame_times
from vla_ros.robot import RobotConfig
from vla_ros.training.config import SetConfig
from vla_ros.training.dataset import LATE_PERIODS
from vla_ros.training.episodes import FrameRule


def look_at_set(config: SetConfig, robot: RobotConfig, rule: FrameRule) -> RecordingSeen:
    """Its numbers, all of them, the times of all frames of its videos, and the first picture of each episode."""
    folder, faults = Path(config.path), Tally()

    def report(line: str) -> None:
        faults.add(without_numbers(line), line.replace(f"{folder}/", "").removeprefix(f"{folder}: "))

    seen = RecordingSeen.of(folder.name, robot)
    try:
        info = read_info(folder)
        source = _Looked(folder, _tasks(folder, report), report)
    except ValueError as error:
        report(str(error))
        (seen.refusal,) = faults.lines[-1:]
        seen.faults = faults.lines[:-1]
        return seen
    seen = RecordingSeen.of(folder.name, robot, info.fps)
    num_rows = sum(episode.length for episode in source.episodes)
    seen.size = f"; {len(source.episodes)} episodes, {num_rows} rows"
    mapping = map_what_fits(source, SetMeaning(config.space, config.cameras), robot, report)
    if mapping is None:
        source.read_all()
    else:
        seen.faults = faults.lines
        rule = replace(rule, episodes="marker", max_gap_s=max(rule.max_gap_s, LATE_PERIODS / info.fps))
        _take(source, mapping, robot, rule, seen, report)
    seen.faults = faults.lines
    return seen


class _AnyTask(Mapping[int, str]):
    """Of a set whose instructions are lost: they are reported once, and all else is looked at."""

    def __getitem__(self, number: int) -> str:
        return f"instruction {number}, whose text is lost"

    def __contains__(self, number: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _tasks(folder: Path, report: Callable[[str], None]) -> Mapping[int, str]:
    try:
        return read_tasks(folder)
    except ValueError as error:
        report(str(error))
        return _AnyTask()


class _Looked(LeRobotSet):
    """A set of which pictures are blank: that they are there, and what the first of each episode is, is reported."""

    def __init__(self, folder: Path, tasks: Mapping[int, str], report: Callable[[str], None]) -> None:
        super().__init__(folder, tasks)
        self._report = report
        self._times: dict[str, tuple[Path, np.ndarray | None]] = {}
        self.last: Rows | None = None

    def rows(self, episode: SetEpisode, columns: Sequence[str] = (), pictures: Sequence[str] = ()) -> Rows:
        self.last = super().rows(episode, columns, pictures)
        return self.last

    def pictures(self, feature: Feature, episode: SetEpisode, rows: Rows) -> Iterator[np.ndarray]:
        return repeat(BLANK, len(rows.times_s))

    def look_at_pictures(self, feature: Feature, episode: SetEpisode, rows: Rows) -> None:
        """Report where some are missing, or the first can't be decoded."""
        try:
            if feature.dtype == "image" or self._has_frames(feature, episode, rows):
                next(super().pictures(feature, episode, rows))
        except ValueError as error:
            self._report(str(error))

    def read_all(self) -> None:
        """Rows and pictures of every episode, whatever they mean."""
        images = [feature.key for feature in self.info.cameras if feature.dtype == "image"]
        for episode in self.episodes:
            try:
                rows = self.rows(episode, pictures=images)
            except ValueError as error:
                self._report(str(error))
            else:
                for feature in self.info.cameras:
                    self.look_at_pictures(feature, episode, rows)

    def _has_frames(self, feature: Feature, episode: SetEpisode, rows: Rows) -> bool:
        """Whether the video has a frame for each row, by what its packets say."""
        video = episode.videos[feature.key]
        file, times_s = self._times.get(feature.key, (None, None))
        if file != video.file:
            self._times[feature.key] = video.file, None  # what is damaged is named once
            times_s = frame_times(video.file)
            self._times[feature.key] = video.file, times_s
        if times_s is None:
            return False
        wanted_s, tolerance_s = video.start_s + rows.times_s, 0.5 / self.info.fps
        after = np.searchsorted(times_s, wanted_s)
        around = np.concatenate([[-np.inf], times_s, [np.inf]])
        apart_s = np.minimum(wanted_s - around[after], around[after + 1] - wanted_s)
        missing = np.flatnonzero(apart_s > tolerance_s * SLACK)
        if len(missing):
            row = missing[0]
            got = f"{len(missing)} of {len(wanted_s)} rows have no frame, the first at {wanted_s[row]:.3f} s"
            expected = "expected one for each: the file is cut off, or not of this set"
            self._report(f"{video.file}: episode {episode.index}: {got}; {expected}")
        return not len(missing)


def _take(
    source: _Looked,
    mapping: SetMapping,
    robot: RobotConfig,
    rule: FrameRule,
    seen: RecordingSeen,
    report: Callable[[str], None],
) -> None:
    """All events; cameras that don't fit are reported already, and observations are made of the others."""
    there = tuple(camera for camera in robot.cameras if camera.name in mapping.cameras)
    robot = replace(robot, cameras=there) if there else robot
    feed = SetFeed(source, robot, mapping)
    num_notes = len(feed.problems)
    refused = [key for key in source.info.features if any(f"{key} " in line for line in seen.faults)]
    notes = (line.removeprefix(f"{source.folder}: ") for line in feed.problems)
    seen.notes = tuple(line for line in notes if line.partition(" ")[0] not in refused)
    watch = Watch(robot, rule, seen, sees_pixels=False)
    num_absolute = 0
    for episode in source.episodes:
        try:
            for event in feed.episode(episode):
                watch.take(event)
        except ValueError as error:
            report(str(error))
        else:
            assert source.last is not None
            for feature in mapping.cameras.values():
                source.look_at_pictures(feature, episode, source.last)
            positions = mapping.positions(source.last.states)
            try:
                check_poses([source.last], [positions], source, mapping)
            except ValueError as error:
                report(str(error))
            num_absolute += seem_absolute(mapping, source.last.actions, positions)
        watch.pause()
    if 2 * num_absolute > len(source.episodes):
        report(not_relative(mapping))
    lines = (*feed.problems[num_notes:], *watch.problems)
    seen.problems = tuple(line.removeprefix(f"{source.folder}: ") for line in lines)
