"""A bag's messages as events of one robot, read by the decoders of the live nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vla_ros.bags.read import BagReader, RawMessage
from vla_ros.bags.tally import Tally
from vla_ros.messages.frames import decode_frame, is_whole_jpeg
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.stamps import check_stamp
from vla_ros.messages.times import time_to_ns
from vla_ros.messages.trace import decode_trace
from vla_ros.messages.trajectories import Trajectory, parse_trajectory
from vla_ros.replay.events import (
    ChunkEvent,
    CommandEvent,
    EstopEvent,
    Event,
    FrameEvent,
    JointsEvent,
    ModeEvent,
    RequestEvent,
    ResultEvent,
    TaskEvent,
    TeleopEvent,
    TraceEvent,
)
from vla_ros.robot import CameraConfig, OutputConfig, RobotConfig
from vla_ros.runtime.buffers import joint_sample
from vla_ros.runtime.handoff import Mode
from vla_ros.types import Frame
from vla_ros.wire import REQUEST, check_kind, decode_result

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
STRING, BOOL = "std_msgs/msg/String", "std_msgs/msg/Bool"
NUMBERS, BYTES = "std_msgs/msg/Float64MultiArray", "std_msgs/msg/UInt8MultiArray"
# How an error's text goes on differs from message to message; what it is about does not.
_NUMBER = re.compile(r"-?\d[\d.]*")


@dataclass(frozen=True)
class _Source:
    """A topic of the robot: its message type, how a message and its time become an event, and whether a bag without it
    is worth a line."""

    msgtype: str
    read: Callable[[Any, int], Event]
    is_needed: bool = False


class Feed:
    """The events of ``robot`` in ``bag``, recorded in ``namespace``; iterate over it once.

    ``problems`` are those of the bag and, one line for each kind, of messages that could not be used.
    """

    def __init__(self, bag: BagReader, robot: RobotConfig, namespace: str = "") -> None:
        self._bag = bag
        self._robot = robot
        self._sources = self._make_sources(namespace)
        self._tally = Tally()

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each problem met so far."""
        return (*self._bag.problems, *self._tally.lines)

    def __iter__(self) -> Iterator[Event]:
        """Raises ValueError where nothing of the bag can be read."""
        is_readable: dict[str, bool] = {}
        for message in self._bag.messages(tuple(self._sources)):
            topic = message.topic
            if topic not in is_readable:
                is_readable[topic] = self._is_readable(message)
            if not is_readable[topic]:
                continue
            try:
                event = self._sources[topic].read(self._bag.decode(message), message.stamp_ns)
            except ValueError as error:
                self._tally.add(f"{topic} {_NUMBER.sub('#', str(error))}", f"'{topic}': {error}")
            else:
                yield event
        for topic, source in self._sources.items():
            if source.is_needed and topic not in is_readable:
                self._tally.add(topic, f"'{topic}' is not in the bag{self._hint(topic, source)}")

    def _is_readable(self, message: RawMessage) -> bool:
        """Whether a topic's messages are of the type the live nodes take."""
        topic, expected = message.topic, self._sources[message.topic].msgtype
        problem = ""
        if message.msgtype != expected:
            problem = f"'{topic}' holds {message.msgtype}; expected {expected}: check the robot file"
        else:
            try:
                if not self._bag.layout(topic).is_standard:
                    problem = f"'{topic}': the bag defines {expected} otherwise than ROS does"
            except ValueError as error:
                problem = f"'{topic}': {error}"
        if problem:
            self._tally.add(topic, problem)
        return not problem

    def _hint(self, topic: str, source: _Source) -> str:
        """Where a topic that was not found may be instead."""
        known = self._bag.contents.topics if self._bag.contents is not None else ()
        alike = [other.name for other in known if other.msgtype == source.msgtype]
        return f"; it has {', '.join(alike)}: check the robot file and the namespace" if alike else ""

    def _make_sources(self, namespace: str) -> dict[str, _Source]:
        robot = self._robot
        by_name = {
            robot.joint_states.topic: _Source(JOINT_STATE, self._joints, is_needed=True),
            "vla_policy/task": _Source(STRING, lambda msg, at_ns: TaskEvent(at_ns, msg.data.strip()), is_needed=True),
            "vla_policy/mode": _Source(STRING, lambda msg, at_ns: ModeEvent(at_ns, Mode(msg.data))),
            "vla_policy/estop": _Source(BOOL, lambda msg, at_ns: EstopEvent(at_ns, bool(msg.data))),
            "vla_policy/teleop": _Source(TRAJECTORY, self._teleop),
            "vla_policy/chunk": _Source(TRAJECTORY, self._chunk),
            "vla_policy/trace": _Source(STRING, lambda msg, at_ns: TraceEvent(at_ns, decode_trace(msg.data))),
            "vla_model/request": _Source(BYTES, _request),
            "vla_model/result": _Source(BYTES, _result),
        }
        for camera in robot.cameras:
            kind = COMPRESSED_IMAGE if camera.compressed else IMAGE
            by_name[camera.topic] = _Source(kind, partial(_frame, camera), is_needed=True)
        for output in robot.outputs:
            kind, read = (TRAJECTORY, _trajectory) if output.interface == "trajectory" else (NUMBERS, self._numbers)
            by_name[output.command_topic] = _Source(kind, partial(read, output), is_needed=True)
        return {resolve_topic(name, namespace): source for name, source in by_name.items()}

    def _joints(self, msg: Any, received_ns: int) -> JointsEvent:
        stamp_ns = time_to_ns(msg.header.stamp)
        check_stamp(stamp_ns, received_ns)
        positions, velocities = positions_by_name(msg, self._robot.joint_names)
        return JointsEvent(received_ns, joint_sample(stamp_ns, positions, velocities))

    def _teleop(self, msg: Any, received_ns: int) -> TeleopEvent:
        trajectory = parse_trajectory(msg, self._robot.joint_names, in_order=True)
        if trajectory.stamp_ns:
            check_stamp(trajectory.stamp_ns, received_ns)
        return TeleopEvent(received_ns, trajectory)

    def _chunk(self, msg: Any, received_ns: int) -> ChunkEvent:
        return ChunkEvent(received_ns, parse_trajectory(msg, self._robot.joint_names))

    def _numbers(self, output: OutputConfig, msg: Any, received_ns: int) -> CommandEvent:
        positions = np.array(msg.data, np.float64)
        if positions.shape != (len(output.joints),) or not np.isfinite(positions).all():
            raise ValueError(
                f"command of {positions.size} numbers; expected {len(output.joints)} finite ones, as output "
                f"'{output.name}' has joints"
            )
        trajectory = Trajectory(0, np.array([1 / self._robot.control_rate_hz]), positions[None], None)
        return CommandEvent(received_ns, output.name, trajectory)


def resolve_topic(name: str, namespace: str) -> str:
    """The full name of a topic that a node in ``namespace`` calls ``name``."""
    if name.startswith("/"):
        return name
    return "/" + "/".join(part for part in (*namespace.split("/"), name) if part)


def _frame(camera: CameraConfig, msg: Any, received_ns: int) -> FrameEvent:
    stamp_ns = time_to_ns(msg.header.stamp)
    check_stamp(stamp_ns, received_ns)
    decode = partial(decode_frame, msg, camera.width, camera.height)
    if camera.compressed and is_whole_jpeg(msg, camera.width, camera.height):
        # A policy looks at one frame in many: decoding is most of the work.
        content = np.frombuffer(msg.data, np.uint8)
        return FrameEvent(received_ns, Frame(camera.name, stamp_ns, stamp_ns, content, decode))
    return FrameEvent(received_ns, Frame(camera.name, stamp_ns, stamp_ns, decode()))


def _trajectory(output: OutputConfig, msg: Any, received_ns: int) -> CommandEvent:
    return CommandEvent(received_ns, output.name, parse_trajectory(msg, output.joints))


def _request(msg: Any, received_ns: int) -> RequestEvent:
    data = bytes(msg.data)
    return RequestEvent(received_ns, check_kind(data, REQUEST), data)


def _result(msg: Any, received_ns: int) -> ResultEvent:
    return ResultEvent(received_ns, decode_result(bytes(msg.data)))
