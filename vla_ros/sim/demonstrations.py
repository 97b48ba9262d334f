"""Demonstrations of the scripted expert as rosbag2 MCAP files, made by the simulation alone.

The bags hold the robot file's own topics with the messages the live nodes send, plus ``/sim/blocks``: where the blocks
truly are, for the grounding labels of training; no policy ever sees it. No ROS graph is needed and time is simulated,
so this runs far faster than real time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros import topics
from vla_ros.bags.definitions import message_type, serialize
from vla_ros.bags.write import BagWriter, make_qos
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.sim.expert import Expert
from vla_ros.sim.scene import Scene, sample_scene
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

if TYPE_CHECKING:
    from vla_ros.sim.world import TabletopWorld

EPISODES_PER_BAG = 500
_SETTINGS = Path(".demonstrations", "settings.json")  # what a folder of them was made with
_EPISODE_GAP_S = 1.0
_EPOCH_NS = 1_700_000_000_000_000_000
_STATE_PERIOD_STEPS = 8


@dataclass(frozen=True)
class DemonstrationConfig:
    """How many episodes and how each is sampled.

    An episode shows ``num_frames`` camera frames, ``frame_period_s`` apart from its start on, and runs ``tail_s``
    longer, so that the last frame has its future. ``anywhere_share`` of the episodes start anywhere, the others as in a
    scored episode.
    """

    num_episodes: int
    seed: int = 0
    num_frames: int = 6
    frame_period_s: float = 0.32
    tail_s: float = 1.08
    anywhere_share: float = 0.6

    @property
    def num_bags(self) -> int:
        return -(-self.num_episodes // EPISODES_PER_BAG)


def write_demonstrations(
    folder: str | Path, robot: RobotConfig, config: DemonstrationConfig, num_workers: int = 1
) -> Iterator[Path]:
    """Write the bags ``demo_00000`` … into ``folder``; yields each when it is complete, skipping those already there.

    A bag is written beside its final name and moved there when whole, so an interrupted run leaves no half bag. Raises
    ValueError for a robot with an output that takes no trajectories, and where ``folder`` holds anything else.
    """
    other = [output.name for output in robot.outputs if output.set_points.msgtype != topics.TRAJECTORY]
    if other:
        got = f"output '{other[0]}' of robot '{robot.name}' takes no trajectories"
        raise ValueError(f"{got}; demonstrations need interface trajectory for each output")
    folder = Path(folder)
    paths = [folder / f"demo_{index:05d}" for index in range(config.num_bags)]
    missing = [path for path in paths if not path.exists()]
    settings, wanted, there = folder / _SETTINGS, json.dumps(asdict(config)), set(folder.glob("[!.]*"))
    if there and (there - set(paths) or not settings.is_file() or settings.read_text() != wanted):
        raise ValueError(
            f"{folder} holds other things than demonstrations of {wanted}; set another lesson.demonstrations_dir"
        )
    if not there:
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(wanted)
    yield from (path for path in paths if path not in missing)
    # spawn: an EGL context and a thread pool do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(max(1, min(num_workers, len(missing)))) as pool:
        yield from pool.imap(partial(_write_bag, robot, config), missing)


def _write_bag(robot: RobotConfig, config: DemonstrationConfig, path: Path) -> Path:
    os.environ["LP_NUM_THREADS"] = "1"  # software rendering in each worker on one core, else workers fight for cores
    from vla_ros.sim.robot import check_robot
    from vla_ros.sim.world import TabletopWorld

    check_robot(robot)
    world = TabletopWorld(robot.cameras[0].width, robot.cameras[0].height)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}") / path.name
    with BagWriter(unfinished, compress=True) as bag:
        recorder = RobotMessages(bag, robot)
        start_ns = _EPOCH_NS
        first = EPISODES_PER_BAG * int(path.name.removeprefix("demo_"))
        for episode in range(first, min(first + EPISODES_PER_BAG, config.num_episodes)):
            start_ns += _record_episode(world, recorder, config, episode, start_ns)
    world.close()
    unfinished.rename(path)
    unfinished.parent.rmdir()
    return path


def _record_episode(
    world: TabletopWorld, recorder: RobotMessages, config: DemonstrationConfig, episode: int, start_ns: int
) -> int:
    """One episode; returns how long it is in ns, the gap to the next included."""
    seed = config.seed * 1_000_000 + episode
    anywhere = np.random.default_rng([seed, 2]).random() < config.anywhere_share
    scene = sample_scene(seed, "train", anywhere=anywhere)
    expert = Expert(scene)
    world.reset(scene)
    recorder.scene(scene, start_ns)
    period_steps = round(config.frame_period_s / world.control_dt_s)
    num_steps = round((config.frame_period_s * (config.num_frames - 1) + config.tail_s) / world.control_dt_s)
    command_dt_s = _STATE_PERIOD_STEPS * world.control_dt_s
    command = following = np.array(scene.start_joint_positions)
    for step in range(num_steps):
        now_ns = start_ns + round(world.time_s * NS_PER_S)
        phase = step % _STATE_PERIOD_STEPS
        if phase == 0:
            trajectory = expert.trajectory(command_dt_s)
            command, following = following, trajectory.positions[0]
            recorder.joint_state(world.joint_positions, world.joint_velocities, now_ns)
            recorder.command(trajectory, now_ns)
        if step % period_steps == 0 and step // period_steps < config.num_frames:
            for camera in recorder.robot.camera_names:
                recorder.image(camera, world.render(camera), now_ns)
        world.step(command + (following - command) * ((phase + 1) / _STATE_PERIOD_STEPS))
    return round((world.time_s + _EPISODE_GAP_S) * NS_PER_S)


class RobotMessages:
    """Fills and writes the topics' own messages; who drives is told where ``is_driven``."""

    def __init__(self, bag: BagWriter, robot: RobotConfig, is_driven: bool = False) -> None:
        self._bag, self.robot = bag, robot
        for camera in robot.cameras:
            bag.add_topic(f"/{camera.topic}", topics.IMAGE)
        for topic in robot.joint_topics:
            bag.add_topic(f"/{topic}", topics.JOINT_STATE)
        for output in robot.outputs:
            bag.add_topic(f"/{output.set_point_topic}", topics.TRAJECTORY)
        for topic in (topics.TASK, topics.SIM_BLOCKS, *([topics.MODE] if is_driven else [])):
            bag.add_topic(f"/{topic}", topic.type, [make_qos(latched=True)])

    def scene(self, scene: Scene, stamp_ns: int) -> None:
        self._write(topics.SIM_BLOCKS.name, topics.STRING, stamp_ns, scene.blocks_json)
        self._write(topics.TASK.name, topics.STRING, stamp_ns, scene.instruction)

    def image(self, camera: str, pixels: np.ndarray, stamp_ns: int) -> None:
        """What a camera of the robot file sees: RGB uint8 ``[height, width, 3]``."""
        height, width, _ = pixels.shape
        topic = next(each.topic for each in self.robot.cameras if each.name == camera)
        fields = _header(stamp_ns, camera), height, width, "rgb8", 0, 3 * width, pixels.reshape(-1)
        self._write(topic, topics.IMAGE, stamp_ns, *fields)

    def joint_state(self, positions: np.ndarray, velocities: np.ndarray, stamp_ns: int) -> None:
        for source in self.robot.joint_sources:
            own = self.robot.columns(source.joints)
            values = positions[own], velocities[own], np.zeros(len(own))
            fields = _header(stamp_ns), list(source.message_names), *values
            self._write(source.topic, topics.JOINT_STATE, stamp_ns, *fields)

    def command(self, command: Trajectory, stamp_ns: int) -> None:
        """What whoever drives publishes at ``stamp_ns``."""
        for output in self.robot.outputs:
            columns = self.robot.columns(output.joints)
            rows = zip(command.positions, command.velocities, command.times_s, strict=True)
            points = [_point(positions[columns], speeds[columns], time_s) for positions, speeds, time_s in rows]
            self._write(output.set_point_topic, topics.TRAJECTORY, stamp_ns, _header(0), list(output.joints), points)

    def mode(self, mode: Mode, stamp_ns: int) -> None:
        self._write(topics.MODE.name, topics.STRING, stamp_ns, mode.value)

    def _write(self, topic: str, msgtype: str, stamp_ns: int, *fields: Any) -> None:
        self._bag.write(f"/{topic}", serialize(message_type(msgtype)(*fields)), stamp_ns)


def _point(positions: np.ndarray, velocities: np.ndarray, time_s: float) -> Any:
    due = message_type("builtin_interfaces/msg/Duration")(*divmod(round(time_s * NS_PER_S), NS_PER_S))
    empty = np.zeros(0)
    return message_type("trajectory_msgs/msg/JointTrajectoryPoint")(positions, velocities, empty, empty, due)


def _header(stamp_ns: int, frame_id: str = "") -> Any:
    time = message_type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    return message_type("std_msgs/msg/Header")(time, frame_id)
