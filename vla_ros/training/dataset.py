"""Recordings to training samples: what the robot saw, and what it was commanded over the next chunk. A recording is a
bag, or a LeRobot data set.

Observations are those of the live node, made message by message in the order of their recording; action ``k`` is the
command in force at ``t_obs + (k + offset) * chunk_dt``, or the last one of the episode where that has ended by then.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_ros import topics
from vla_ros.bags.read import BagReader
from vla_ros.observing.observe import Observer
from vla_ros.recordings.events import BagEvent
from vla_ros.recordings.feed import LEARNED, Feed, observe_event
from vla_ros.recordings.pictures import BagPictures
from vla_ros.robot import RobotConfig
from vla_ros.strict import listed
from vla_ros.training.config import SetConfig
from vla_ros.training.episodes import Episode, EpisodeCutter, FrameRule
from vla_ros.training.pictures import DecodedPictures, Pictures, PicturesOf, Recorded
from vla_ros.transforms.sample import TextTarget
from vla_ros.types import Observation

if TYPE_CHECKING:
    from vla_ros.recordings.lerobot.feed import SetFeed


@dataclass(frozen=True)
class Frames:
    """Samples, column by column.

    images           [num_samples, num_cameras, height, width, 3], in the robot file's camera order; not in memory
    joint_positions  float64 [num_samples, num_joints], at the observation's time
    actions          float64 [num_samples, horizon, num_joints], absolute
    num_known        int64 [num_samples], how many of a sample's actions lie within its episode; the others are held
    episode          int64 [num_samples], counts episodes over all recordings
    driver           text [num_samples], who commanded the actions; empty where the bag does not say
    is_intervention  bool [num_samples], a human's in a bag in which the policy drove, too
    weight           float64 [num_samples], how often each is drawn: its recording's weight times learn_from's
    tasks            each episode's instruction
    texts            a question and its answer for each sample, which may be empty, as the bag has them
    scenes           where things were as each episode began, x and y in m by name; empty where the bag does not say
    """

    images: Pictures
    joint_positions: np.ndarray
    actions: np.ndarray
    num_known: np.ndarray
    episode: np.ndarray
    driver: np.ndarray
    is_intervention: np.ndarray
    weight: np.ndarray
    tasks: tuple[str, ...]
    texts: tuple[TextTarget, ...]
    scenes: tuple[Mapping[str, tuple[float, float]], ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> Frames:
        """Some of the samples, in this order; episodes stay what they are."""
        columns = {name: value[rows] if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        texts = tuple(self.texts[row] for row in rows.tolist())
        return Frames(**columns | {"images": PicturesOf(self.images, rows), "texts": texts})

    @property
    def num_answers(self) -> int:
        """How many samples have a text to learn."""
        return sum(bool(text.answer) for text in self.texts)

    @property
    def num_by_driver(self) -> dict[str, int]:
        """How many samples each driver commanded."""
        return dict(Counter(driver or "not recorded" for driver in self.driver.tolist()))


LATE_PERIODS = 1.5
Source = Path | SetConfig
"""A bag's folder or file, or a data set as a train config has it."""


@dataclass(frozen=True)
class LoadedBags:
    """``frames`` of all recordings that could be used, and one line for each problem; ``num_left_out`` counts images by
    the reason why there is no observation, and observations by the reason why they are no samples.

    The first sample was seen in ``first_bag`` at ``first_ns``.
    """

    frames: Frames
    first_bag: Source
    first_ns: int
    num_left_out: dict[str, int]
    problems: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What there is to train on, and a line for each reason why something is left out."""
        frames = self.frames
        drivers = ", ".join(f"{num} {driver}" for driver, num in sorted(frames.num_by_driver.items()))
        num_interventions = int(frames.is_intervention.sum())
        interventions = f" ({num_interventions} of them interventions)" if num_interventions else ""
        size = f"{len(frames)} samples of {len(frames.tasks)} episodes, {np.prod(frames.images.shape) / 1e9:.1f} GB"
        answers = f"; {frames.num_answers} with an answer to learn" if frames.num_answers else ""
        summary = f"{size}; drivers: {drivers}{interventions}{answers}"
        return (summary, *(f"left out: {num} frames {reason}" for reason, num in sorted(self.num_left_out.items())))


@dataclass(frozen=True)
class _Bag:
    """What one recording came to."""

    path: Source
    episodes: list[Episode]
    num_left_out: Counter[str]
    problems: tuple[str, ...]


def load_bags(
    paths: Sequence[Source],
    robot: RobotConfig,
    rule: FrameRule,
    num_workers: int = 1,
    cache: Callable[[DecodedPictures], Pictures] = lambda pictures: pictures,
    bag_weights: Mapping[Path, float] | None = None,
) -> LoadedBags:
    """Read ``paths`` in order; a damaged bag is reported, and used up to the damage. Pictures are decoded when they are
    looked at, unless ``cache`` makes others of them. A bag without a weight of its own has 1.

    Raises ValueError when nothing usable is left, and for a data set that is damaged or isn't of this robot.
    """
    read_bag = partial(_read, robot=robot, rule=rule)
    if min(num_workers, len(paths)) > 1:
        with multiprocessing.get_context("spawn").Pool(min(num_workers, len(paths))) as pool:
            read = pool.map(read_bag, paths, chunksize=1)
    else:
        read = [read_bag(path) for path in paths]
    problems = [problem for bag in read for problem in bag.problems]
    num_left_out = sum((bag.num_left_out for bag in read), Counter())
    usable = [bag for bag in read if bag.episodes]
    if not usable:
        left_out = ", ".join(f"{num} {reason}" for reason, num in sorted(num_left_out.items()))
        why = "; ".join((*problems[:1], *([f"left out: {left_out}"] if left_out else [])))
        where = paths[0].path if isinstance(paths[0], SetConfig) else paths[0].parent
        raise ValueError(f"{where}: no usable frame in {len(paths)} bags; {why or 'record some'}")
    samples = [sample for bag in usable for episode in bag.episodes for sample in episode.samples]
    number = np.repeat(np.arange(len(usable)), [sum(len(one.samples) for one in bag.episodes) for bag in usable])
    places = np.stack([sample.places for sample in samples])
    sources = [_pictures(bag.path, robot, rule) for bag in usable]
    size = _picture_size(robot, rule)
    images = cache(DecodedPictures(sources, number, places, rule.resize, size, num_workers))
    weights = np.array([_weight(bag.path, bag_weights or {}) for bag in usable])[number]
    weights *= [rule.learn_from.weight(sample) for sample in samples]
    frames = _columns([episode for bag in usable for episode in bag.episodes], images, weights)
    kept = np.flatnonzero(~images.lost)
    if len(kept) < len(frames):
        problems += images.problems
        num_left_out["with a picture that can't be decoded"] = len(frames) - len(kept)
        if not len(kept):
            raise ValueError(f"{sources[0].name}: no picture can be decoded; {problems[-1]}")
        frames = frames.take(kept)
    first = int(kept[0])
    return LoadedBags(frames, usable[number[first]].path, samples[first].stamp_ns, dict(num_left_out), tuple(problems))


def first_observation(loaded: LoadedBags, robot: RobotConfig, rule: FrameRule) -> Observation:
    """The first sample as the live node would have built it, images in the cameras' own size."""
    for events in _parts(loaded.first_bag, robot, rule):
        observer = Observer(robot)
        for event in events:
            found = observe_event(observer, event)
            if found is not None and found.stamp_ns == loaded.first_ns:
                observation = found.observation()
                images = {name: np.array(image) for name, image in observation.images.items()}
                return replace(observation, stamp_ns=0, headers_ns=dict.fromkeys(images, 0), images=images)
    raise ValueError(f"bag {loaded.first_bag} has changed since it was read; do not change bags while training runs")


def _open(path: Path, robot: RobotConfig, rule: FrameRule) -> Feed:
    needed = (topics.EPISODE_MARKER.name,) if rule.episodes == "marker" else ()
    return Feed(BagReader(path), robot, rule.namespace, LEARNED, needed)


def _pictures(source: Source, robot: RobotConfig, rule: FrameRule) -> Recorded:
    if isinstance(source, SetConfig):
        from vla_ros.training.sets import set_pictures  # takes libraries that bags don't need

        return set_pictures(source, robot)
    opened = partial(BagPictures, source, robot, rule.namespace)
    return Recorded(f"bag {source}", BagReader(source).files, opened, goes_by_camera=False)


def _picture_size(robot: RobotConfig, rule: FrameRule) -> tuple[int, int]:
    """Height and width of what is kept of each camera's picture."""
    kept = [rule.resize(np.zeros((camera.height, camera.width, 3), np.uint8)) for camera in robot.cameras]
    sizes = {image.shape[:2] for image in kept}
    if len(sizes) > 1:
        got = f"cameras give pictures of {listed([f'{width}x{height}' for height, width in sorted(sizes)])}"
        raise ValueError(f"{got}; expected one size for a policy that resizes none: set width and height alike")
    ((height, width),) = sizes or {(0, 0)}
    return height, width


def _parts(source: Source, robot: RobotConfig, rule: FrameRule) -> Iterator[Iterable[BagEvent]]:
    """What nothing is carried over from one to the next of: a bag, each episode of a data set."""
    if isinstance(source, SetConfig):
        yield from _open_set(source, robot).episodes()
    else:
        yield _open(source, robot, rule)


def _open_set(source: SetConfig, robot: RobotConfig, decodes: bool = True) -> SetFeed:
    from vla_ros.training.sets import open_set  # takes libraries that bags don't need

    return open_set(source, robot, decodes)


def _weight(source: Source, bag_weights: Mapping[Path, float]) -> float:
    return source.weight if isinstance(source, SetConfig) else bag_weights.get(source.resolve(), 1.0)


def _read(source: Source, robot: RobotConfig, rule: FrameRule) -> _Bag:
    if isinstance(source, SetConfig):
        return _read_set(source, robot, rule)
    return _read_bag(source, robot, rule)


def _read_set(source: SetConfig, robot: RobotConfig, rule: FrameRule) -> _Bag:
    feed = _open_set(source, robot, decodes=False)
    # A set of few rows a second is not one of gaps.
    max_gap_s = max(rule.max_gap_s, LATE_PERIODS / feed.source.info.fps)
    rule = replace(rule, episodes="marker", max_gap_s=max_gap_s)
    episodes: list[Episode] = []
    num_left_out: Counter[str] = Counter()
    for events in feed.episodes():
        cutter = EpisodeCutter(robot, rule, feed.report)
        for event in events:
            cutter.take(event)
        episodes += cutter.finish()
        num_left_out += cutter.num_left_out
    return _Bag(source, episodes, num_left_out, feed.problems)


def _read_bag(path: Path, robot: RobotConfig, rule: FrameRule) -> _Bag:
    try:
        feed = _open(path, robot, rule)
    except ValueError as error:
        return _Bag(path, [], Counter(), (str(error),))
    cutter = EpisodeCutter(robot, rule, feed.report)
    damage: tuple[str, ...] = ()
    try:
        for event in feed:
            cutter.take(event)
    except ValueError as error:
        damage = (str(error),)
    episodes = cutter.finish()
    problems = tuple(dict.fromkeys((*feed.problems, *damage)))
    if not (episodes or problems or cutter.num_left_out):
        problems = (f"bag {path}: no images within an episode; check what was recorded",)
    return _Bag(path, episodes, cutter.num_left_out, problems)


def _columns(episodes: list[Episode], images: Pictures, weight: np.ndarray) -> Frames:
    samples = [sample for episode in episodes for sample in episode.samples]
    return Frames(
        images=images,
        joint_positions=np.stack([sample.joint_positions for sample in samples]),
        actions=np.stack([sample.actions for sample in samples]),
        num_known=np.array([sample.num_known for sample in samples]),
        episode=np.repeat(np.arange(len(episodes)), [len(episode.samples) for episode in episodes]),
        driver=np.array([sample.driver for sample in samples], "U6"),
        is_intervention=np.array([sample.is_intervention for sample in samples]),
        weight=weight,
        tasks=tuple(episode.task for episode in episodes),
        texts=tuple(sample.text for sample in samples),
        scenes=tuple(episode.scene for episode in episodes),
    )
