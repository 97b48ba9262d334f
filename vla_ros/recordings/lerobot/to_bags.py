"""A LeRobot data set as bags: what a robot that saw and did this would have recorded, a bag for each episode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla_ros import topics
from vla_ros.bags.definitions import message_type, serialize
from vla_ros.bags.write import BagWriter, make_qos
from vla_ros.recordings.events import BagEvent, Command, Marker, Task
from vla_ros.recordings.lerobot.dataset import SetEpisode
from vla_ros.recordings.lerobot.feed import SetFeed
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, OutputConfig
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING, TRAJECTORY
from vla_ros.types import Frame, JointSample, Mode
from vla_ros.units import NS_PER_S

JPEG_QUALITY = 95


def bag_name(episode: SetEpisode) -> str:
    """What an episode's bag is called."""
    return f"episode_{episode.index:06d}"


def write_bags(feed: SetFeed, out: Path, robot: RobotConfig) -> Iterator[str]:
    """Write the bags that are missing in ``out``, each moved to its place when it is whole; yields its name for each
    row.

    Raises ValueError where the set can't be read or a bag not be written.
    """
    for episode in feed.source.episodes:
        path = out / bag_name(episode)
        if path.exists():
            continue
        partial = out / f".{path.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with BagWriter(partial / path.name, compress=True) as bag:
            writer = EventWriter(bag, robot)
            for event in feed.episode(episode):
                if feed.is_judged(episode) or not isinstance(event.said, Marker):
                    writer.write(event)
                if isinstance(event.said, JointSample):
                    yield path.name
        os.replace(partial / path.name, path)
        partial.rmdir()


class EventWriter:
    """Writes events of ``robot`` as its topics' own messages.

    A command is published a control period before it is due, and what it belongs to with it: who drives, the episode's
    start, its first task.
    """

    def __init__(self, bag: BagWriter, robot: RobotConfig) -> None:
        self._bag, self._robot = bag, robot
        self._period_ns = round(NS_PER_S / robot.control_rate_hz)
        self._has_begun = False
        self._cameras = {camera.name: camera for camera in robot.cameras}
        self._outputs = {output.name: output for output in robot.outputs}
        for camera in robot.cameras:
            bag.add_topic(f"/{camera.topic}", COMPRESSED_IMAGE if camera.compressed else IMAGE)
        for topic in robot.joint_topics:
            bag.add_topic(f"/{topic}", JOINT_STATE)
        for output in robot.outputs:
            bag.add_topic(f"/{output.set_point_topic}", output.set_points.msgtype)
        for told in (topics.TASK, topics.MODE):
            bag.add_topic(f"/{told}", told.type, [make_qos(latched=True)])
        bag.add_topic(f"/{topics.EPISODE_MARKER}", STRING)

    def begin(self) -> None:
        """What comes next is another episode."""
        self._has_begun = False

    def write(self, event: BagEvent) -> None:
        """Raises ValueError as ``BagWriter`` does."""
        now_ns = event.received_ns
        match event.said:
            case Frame() as frame:
                self._frame(self._cameras[frame.camera], frame, now_ns)
            case JointSample() as sample:
                self._has_begun = True
                self._joints(sample, now_ns)
            case Command(group, due_ns, trajectory):
                self._command(self._outputs[group], due_ns, trajectory.positions[0])
            case Mode() as mode:
                self._text(topics.MODE.name, mode.value, now_ns - self._period_ns)
            case Task(text):
                self._text(topics.TASK.name, text, now_ns if self._has_begun else now_ns - self._period_ns)
            case Marker(text):
                self._text(topics.EPISODE_MARKER.name, text, now_ns if self._has_begun else now_ns - self._period_ns)

    def _frame(self, camera: CameraConfig, frame: Frame, now_ns: int) -> None:
        image = frame.image
        if camera.compressed:
            settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
            self._write(camera.topic, COMPRESSED_IMAGE, now_ns, _header(frame.stamp_ns, camera.name), "jpeg", data)
        else:
            height, width, _ = image.shape
            fields = _header(frame.stamp_ns, camera.name), height, width, "rgb8", 0, 3 * width, image.reshape(-1)
            self._write(camera.topic, IMAGE, now_ns, *fields)

    def _joints(self, sample: JointSample, now_ns: int) -> None:
        empty = np.zeros(0)
        for source in self._robot.joint_sources:
            own = sample.positions[self._robot.columns(source.joints)]
            fields = _header(sample.stamp_ns), list(source.message_names), own, empty, empty
            self._write(source.topic, JOINT_STATE, now_ns, *fields)

    def _command(self, output: OutputConfig, due_ns: int, positions: np.ndarray) -> None:
        now_ns = due_ns - self._period_ns
        if output.set_points.msgtype != TRAJECTORY:
            layout = message_type("std_msgs/msg/MultiArrayLayout")([], 0)
            self._write(output.set_point_topic, output.set_points.msgtype, now_ns, layout, positions)
            return
        empty = np.zeros(0)
        due = message_type("builtin_interfaces/msg/Duration")(*divmod(self._period_ns, NS_PER_S))
        point = message_type("trajectory_msgs/msg/JointTrajectoryPoint")(positions, empty, empty, empty, due)
        self._write(output.set_point_topic, TRAJECTORY, now_ns, _header(now_ns), list(output.message_names), [point])

    def _text(self, topic: str, text: str, now_ns: int) -> None:
        self._write(topic, STRING, now_ns, text)

    def _write(self, topic: str, msgtype: str, now_ns: int, *fields: Any) -> None:
        self._bag.write(f"/{topic}", serialize(message_type(msgtype)(*fields)), now_ns)


def _header(stamp_ns: int, frame_id: str = "") -> Any:
    time = message_type("builtin_interfaces/msg/Time")(*divmod(stamp_ns, NS_PER_S))
    return message_type("std_msgs/msg/Header")(time, frame_id)
