"""The rows of a LeRobot data set as events of one robot: what a bag of it would say.

A row is what the sensors gave at its time, and the command that was to be reached then. So one rule makes observations
and labels of bags and sets, whatever the rate of either. A set that was written from bags has the times they had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vla_ros.bags.read import Tally
from vla_ros.messages.trajectories import Trajectory
from vla_ros.recordings.events import BagEvent, Command, Marker, Task
from vla_ros.recordings.lerobot.dataset import LeRobotSet, Rows, SetEpisode
from vla_ros.recordings.lerobot.info import DRIVER, INTERVENTION, STAMPS, Feature
from vla_ros.recordings.lerobot.mapping import SetMapping, check_rows
from vla_ros.robot import RobotConfig
from vla_ros.strict import quoted
from vla_ros.types import Frame, JointSample, Mode
from vla_ros.units import NS_PER_S

START_NS = 1_000_000_000 * NS_PER_S
GAP_NS = 3600 * NS_PER_S
"""When the first episode is, and the next after it, where the set doesn't say when they were."""
SUCCESS = "next.success"
COLUMNS = (DRIVER, INTERVENTION, STAMPS, SUCCESS)
MODES = tuple(mode.value for mode in Mode)


class SetFeed:
    """The events of ``robot`` in a set, each episode a recording of its own. It is marked by its start and how it
    ended: ``success`` where nobody says.

    Who drove is told by the column ``driver``, else by ``intervention``, which says when a human did and else the
    policy; of a set with neither it is not known. Where there is an intervention, the policy drove, too.

    With ``decodes`` off frames have no pixels, only their ``place`` for ``SetPictures``."""

    def __init__(self, source: LeRobotSet, robot: RobotConfig, mapping: SetMapping, decodes: bool = True) -> None:
        self.source, self._robot, self.mapping, self._decodes = source, robot, mapping, decodes
        self._tally = Tally()
        used = {feature.key for feature in mapping.cameras.values()}
        for feature in source.info.cameras:
            if feature.key not in used:
                self.report(feature.key, f"{feature.key} is no camera that is looked at; it is left out")

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each problem met so far, naming the set."""
        return self._tally.lines

    def report(self, kind: str, line: str) -> None:
        """Add to ``problems``; of each ``kind`` the first line stays, the others are counted."""
        self._tally.add(kind, f"{self.source.folder}: {line}")

    def episodes(self) -> Iterator[Iterator[BagEvent]]:
        """The events of each episode. Raises ValueError, as these do, for one that can't be read, or whose numbers are
        not finite."""
        return map(self.episode, self.source.episodes)

    def is_judged(self, episode: SetEpisode) -> bool:
        """Whether anybody says how it ended."""
        return bool(episode.outcome) or SUCCESS in self.source.info.features

    def check(self, episode: SetEpisode) -> None:
        """Raises ValueError as ``episode``, and where its numbers can't be of this robot."""
        check_rows([self.source.rows(episode, COLUMNS)], self.source, self.mapping, self._robot)

    def says_driver(self, episode: SetEpisode) -> bool:
        """Whether it is known of any row who drove. Raises ValueError as ``episode``."""
        return any(self._drivers(self.source.rows(episode, COLUMNS)))

    def episode(self, episode: SetEpisode) -> Iterator[BagEvent]:
        """The events of one episode."""
        cameras = self.mapping.cameras
        pictures = [feature for feature in cameras.values() if feature.dtype == "image" and self._decodes]
        rows = self.source.rows(episode, COLUMNS, [feature.key for feature in pictures])
        stamps_ns = self._stamps(rows, START_NS + episode.index * GAP_NS)
        positions = self.mapping.positions(rows.states)
        targets = self.mapping.targets(rows.actions, positions)
        drivers = self._drivers(rows)
        images = {name: self._images(feature, episode, rows) for name, feature in cameras.items()}
        began_ns = int(stamps_ns[0].min()) - 1
        yield BagEvent(began_ns, Marker("start"))
        if INTERVENTION in rows.others and rows.others[INTERVENTION].any():
            yield BagEvent(began_ns, Mode.POLICY)
        last_task = last_driver = ""
        for row, (now_ns, *taken_ns) in enumerate(stamps_ns.tolist()):
            if rows.tasks[row] != last_task or row == 0:
                last_task = rows.tasks[row]
                yield BagEvent(began_ns if row == 0 else now_ns, Task(last_task))
            if drivers[row] and drivers[row] != last_driver:
                last_driver = drivers[row]
                yield BagEvent(now_ns, Mode(last_driver))
            yield from self._commands(now_ns, targets[row])
            yield BagEvent(now_ns, JointSample(now_ns, positions[row], np.full(len(positions[row]), np.nan)))
            for (name, own), frame_ns in sorted(zip(images.items(), taken_ns, strict=True), key=lambda item: item[1]):
                place = episode.index, row, round(rows.times_s[row] * NS_PER_S)
                yield BagEvent(max(now_ns, frame_ns), Frame(name, frame_ns, frame_ns, next(own), place=place))
        yield BagEvent(int(stamps_ns[-1].max()) + 1, Marker(_outcome(episode, rows)))

    def _images(self, feature: Feature, episode: SetEpisode, rows: Rows) -> Iterator[np.ndarray]:
        """One for each of ``rows``; of pictures that nobody decodes something that differs from one to the next, as no
        camera is taken to stand still then."""
        if self._decodes:
            return self.source.pictures(feature, episode, rows)
        return (np.array([row % 251], np.uint8) for row in range(len(rows.times_s)))

    def _commands(self, now_ns: int, targets: np.ndarray) -> Iterator[BagEvent]:
        for output in self._robot.outputs:
            columns = self._robot.columns(output.joints)
            trajectory = Trajectory(now_ns, np.zeros(1), targets[None, columns], None)
            yield BagEvent(now_ns, Command(output.name, now_ns, trajectory))

    def _stamps(self, rows: Rows, start_ns: int) -> np.ndarray:
        """When each row was, and each of its pictures, in the order of the robot's cameras, ns ``[num_rows, 1 +
        num_cameras]``: as the set says it, else from ``start_ns`` on."""
        kept = rows.others.get(STAMPS)
        names = self.source.info.features[STAMPS].names if STAMPS in self.source.info.features else ()
        wanted = ["row", *(feature.key.rpartition(".")[2] for feature in self.mapping.cameras.values())]
        if kept is not None and set(wanted) <= set(names):
            return kept[:, [names.index(name) for name in wanted]]
        own_ns = start_ns + np.round(rows.times_s * NS_PER_S).astype(np.int64)
        return own_ns[:, None].repeat(len(wanted), 1)

    def _drivers(self, rows: Rows) -> Sequence[str]:
        if DRIVER in rows.others:
            said = [str(name) for name in rows.others[DRIVER].reshape(-1)]
            other = [name for name in said if name and name not in MODES]
            if other:
                self.report(DRIVER, f"a driver is '{quoted(other[0])}'; it is taken for nobody that is known")
            return [name if name in MODES else "" for name in said]
        if INTERVENTION in rows.others:
            return [(Mode.TELEOP if human else Mode.POLICY).value for human in rows.others[INTERVENTION].reshape(-1)]
        return [""] * len(rows.tasks)


def _outcome(episode: SetEpisode, rows: Rows) -> str:
    if episode.outcome in ("success", "failure"):
        return episode.outcome
    if SUCCESS in rows.others:
        return "success" if rows.others[SUCCESS].any() else "failure"
    return "success"
