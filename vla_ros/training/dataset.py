"""Bags to training samples: what the robot saw, and what it was commanded over the next chunk.

The rules are those of the live node: an observation's time is its oldest camera stamp, joints are interpolated to it,
and action ``k`` is the command in force at ``t_obs + (k + offset) * chunk_dt``.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.bags.read import read_bag
from vla_ros.messages.images import decode_image
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.times import time_to_ns
from vla_ros.messages.trajectories import parse_trajectory
from vla_ros.robot import RobotConfig
from vla_ros.sim.demonstrations import BLOCKS_TOPIC, TASK_TOPIC
from vla_ros.transforms.images import resize
from vla_ros.types import Observation


@dataclass(frozen=True)
class FrameRule:
    """How observations and their labels are cut out of an episode; ``image_size`` is (height, width) in pixels."""

    horizon: int
    chunk_dt_s: float
    offset: float
    image_size: tuple[int, int]
    min_gap_s: float = 0.0


@dataclass(frozen=True)
class Frames:
    """Samples, column by column.

    images           uint8 [num_samples, num_cameras, height, width, 3], in the robot file's camera order
    joint_positions  float64 [num_samples, num_joints], at the observation's time
    actions          float64 [num_samples, horizon, num_joints], absolute
    episode          int64 [num_samples], counts episodes over all bags
    tasks, blocks    the instruction and the true block centres (m, by colour; empty where the bag has none) of each episode
    """

    images: np.ndarray
    joint_positions: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    tasks: tuple[str, ...]
    blocks: tuple[dict[str, tuple[float, float]], ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class LoadedBags:
    """``frames`` of all bags that could be used, and one line for each damaged one."""

    frames: Frames
    problems: tuple[str, ...]


def load_bags(paths: Sequence[Path], robot: RobotConfig, rule: FrameRule, num_workers: int = 1) -> LoadedBags:
    """Read ``paths`` in order; a damaged bag is reported and what stands before the damage is used.

    Raises ValueError when nothing usable is left.
    """
    jobs = [(path, robot, rule) for path in paths]
    with multiprocessing.get_context("spawn").Pool(max(1, min(num_workers, len(jobs)))) as pool:
        read = list(pool.imap(_read_job, jobs))
    problems = tuple(problem for bag in read for problem in bag.problems)
    usable = [bag.frames for bag in read if len(bag.frames)]
    if not usable:
        where = paths[0].parent if paths else "the data folder"
        raise ValueError(f"{where}: no usable frame in {len(paths)} bags; {problems[0] if problems else 'record some'}")
    return LoadedBags(_concatenate(usable), problems)


def first_observation(paths: Sequence[Path], robot: RobotConfig, rule: FrameRule) -> Observation:
    """The first usable sample of ``paths`` as the live node would have built it, images of ``rule.image_size``."""
    for path in paths:
        frames = _read_job((path, robot, rule)).frames
        if len(frames):
            return Observation(
                stamp_ns=0,
                images=dict(zip(robot.camera_names, frames.images[0])),
                joint_positions=frames.joint_positions[0],
                task=frames.tasks[0],
            )
    raise ValueError(f"no usable frame in {len(paths)} bags; record some")


@dataclass
class _Episode:
    """What one episode's messages said, in the order they came."""

    task: str
    blocks: dict[str, tuple[float, float]]
    observations: list[tuple[int, np.ndarray]] = field(default_factory=list)
    joint_stamps_ns: list[int] = field(default_factory=list)
    joint_positions: list[np.ndarray] = field(default_factory=list)
    command_stamps_ns: list[int] = field(default_factory=list)
    command_positions: list[np.ndarray] = field(default_factory=list)


def _read_job(job: tuple[Path, RobotConfig, FrameRule]) -> LoadedBags:
    path, robot, rule = job
    episodes: list[_Episode] = []
    problems: tuple[str, ...] = ()
    try:
        _read_episodes(path, robot, rule, episodes)
    except ValueError as error:
        problems = (str(error),)
    columns = [_samples(episode, rule) for episode in episodes]
    kept = [(episode, column) for episode, column in zip(episodes, columns) if len(column[0])]
    if not kept:
        problems = problems or (f"bag {path}: no span with a task, cameras, joints and commands; check its topics",)
        height, width = rule.image_size
        empty = np.zeros((0, len(robot.cameras), height, width, 3), np.uint8)
        none = np.zeros((0, rule.horizon, robot.num_joints))
        return LoadedBags(Frames(empty, none[:, 0], none, np.zeros(0, np.int64), (), ()), problems)
    images, joints, actions = (np.concatenate([column[i] for _, column in kept]) for i in range(3))
    counts = [len(column[0]) for _, column in kept]
    frames = Frames(
        images, joints, actions, np.repeat(np.arange(len(kept)), counts),
        tuple(episode.task for episode, _ in kept), tuple(episode.blocks for episode, _ in kept),
    )  # fmt: skip
    return LoadedBags(frames, problems)


def _read_episodes(path: Path, robot: RobotConfig, rule: FrameRule, episodes: list[_Episode]) -> None:
    """Append the spans between task messages to ``episodes`` as they are read, so that a bag that breaks off keeps them."""
    cameras = {f"/{camera.topic}": i for i, camera in enumerate(robot.cameras)}
    joints_topic = f"/{robot.joint_states.topic}"
    if len(robot.outputs) != 1:
        raise ValueError(f"robot '{robot.name}': bags of {len(robot.outputs)} output groups cannot be read yet")
    command_topic = f"/{robot.outputs[0].command_topic}"
    gatherer = _Gatherer(len(cameras), robot.max_camera_skew_s, rule)
    blocks: dict[str, tuple[float, float]] = {}
    for item in read_bag(path, {TASK_TOPIC, BLOCKS_TOPIC, joints_topic, command_topic, *cameras}):
        if item.topic == BLOCKS_TOPIC:
            blocks = {color: (float(x), float(y)) for color, (x, y) in json.loads(item.message.data).items()}
        elif item.topic == TASK_TOPIC:
            episodes.append(_Episode(item.message.data, blocks))
            blocks = {}
            gatherer.restart()
        elif not episodes:
            continue
        elif item.topic == joints_topic:
            positions, _ = positions_by_name(item.message, robot.joint_names)
            episodes[-1].joint_stamps_ns.append(time_to_ns(item.message.header.stamp))
            episodes[-1].joint_positions.append(positions)
        elif item.topic in cameras:
            gathered = gatherer.add(cameras[item.topic], item.message)
            if gathered is not None:
                episodes[-1].observations.append(gathered)
        else:
            trajectory = parse_trajectory(item.message, robot.joint_names)
            episodes[-1].command_stamps_ns.append(item.stamp_ns + round(trajectory.times_s[0] * 1e9))
            episodes[-1].command_positions.append(trajectory.positions[0])


class _Gatherer:
    """Puts one new frame of each camera together, as often as all cameras have one."""

    def __init__(self, num_cameras: int, max_skew_s: float, rule: FrameRule) -> None:
        self._num_cameras = num_cameras
        self._max_skew_ns = max_skew_s * 1e9
        self._rule = rule
        self.restart()

    def restart(self) -> None:
        self._newest: dict[int, tuple[int, Any]] = {}
        self._last_ns: int | None = None

    def add(self, camera: int, message: Any) -> tuple[int, np.ndarray] | None:
        """The observation's time and its images, when this frame completes a set that is near enough in time."""
        self._newest[camera] = (time_to_ns(message.header.stamp), message)
        if len(self._newest) < self._num_cameras:
            return None
        stamps = [stamp for stamp, _ in self._newest.values()]
        stamp_ns = min(stamps)
        if max(stamps) - stamp_ns > self._max_skew_ns:
            return None
        messages = [self._newest[i][1] for i in range(self._num_cameras)]
        self._newest = {}
        if self._last_ns is not None and stamp_ns - self._last_ns < self._rule.min_gap_s * 1e9:
            return None
        self._last_ns = stamp_ns
        height, width = self._rule.image_size
        return stamp_ns, np.stack([resize(decode_image(message), height, width) for message in messages])


def _samples(episode: _Episode, rule: FrameRule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, joints and actions of the observations whose whole chunk was commanded within the episode."""
    joint_ns, command_ns = np.array(episode.joint_stamps_ns), np.array(episode.command_stamps_ns)
    due_s = (np.arange(rule.horizon) + rule.offset) * rule.chunk_dt_s
    images, joints, actions = [], [], []
    for stamp_ns, pictures in episode.observations:
        due_ns = stamp_ns + np.round(due_s * 1e9)
        if not len(joint_ns) or not joint_ns[0] <= stamp_ns <= joint_ns[-1]:
            continue
        if not len(command_ns) or not command_ns[0] <= due_ns[0] or due_ns[-1] > command_ns[-1]:
            continue
        images.append(pictures)
        joints.append(_interpolate(np.array([stamp_ns]), joint_ns, np.array(episode.joint_positions))[0])
        actions.append(_interpolate(due_ns, command_ns, np.array(episode.command_positions)))
    return np.array(images), np.array(joints), np.array(actions)


def _interpolate(at_ns: np.ndarray, stamps_ns: np.ndarray, values: np.ndarray) -> np.ndarray:
    # Relative to the first stamp: a float64 holds an absolute time of today only to 256 ns.
    start = stamps_ns[0]
    return np.stack(
        [np.interp((at_ns - start).astype(float), (stamps_ns - start).astype(float), column) for column in values.T], -1
    )


def _concatenate(parts: list[Frames]) -> Frames:
    offsets = np.cumsum([0] + [len(part.tasks) for part in parts[:-1]])
    return Frames(
        images=np.concatenate([part.images for part in parts]),
        joint_positions=np.concatenate([part.joint_positions for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        episode=np.concatenate([part.episode + offset for part, offset in zip(parts, offsets)]),
        tasks=tuple(task for part in parts for task in part.tasks),
        blocks=tuple(blocks for part in parts for blocks in part.blocks),
    )
