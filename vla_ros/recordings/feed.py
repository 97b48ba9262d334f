"""A bag's messages as events of one robot, read by the decoders of the live nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import topics
from vla_ros.bags.read import BagReader, Tally
from vla_ros.bags.storage import RawMessage
from vla_ros.hands import Hand, hands_of
from vla_ros.messages.bounds import MAX_NAMES
from vla_ros.messages.compressed import is_whole_jpeg
from vla_ros.messages.images import decode_frame
from vla_ros.messages.joints import joint_sample
from vla_ros.messages.times import MAX_LEAD_S, MAX_START_LEAD_S, check_stamp, time_to_ns
from vla_ros.messages.trace import Trace, decode_trace
from vla_ros.messages.trajectories import Trajectory, parse_trajectory
from vla_ros.observing.observe import Match, Observer
from vla_ros.recordings.events import MARKERS, BagEvent, Chunk, Command, Generation, Marker, Scene, Task, Teleop
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, OutputConfig
from vla_ros.strict import listed, parse_json, quoted
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING, TRAJECTORY, compressed
from vla_ros.types import Frame, JointSample, Mode
from vla_ros.units import NS_PER_S

MODES = tuple(mode.value for mode in Mode)
REPLAYED = (topics.TELEOP.name, topics.CHUNK.name, topics.TRACE.name)
LEARNED = (topics.EPISODE_MARKER.name, topics.GENERATION.name, topics.SIM_BLOCKS.name, topics.TRACE.name)
GENERATION_KEYS = ("generation_prompt", "generation_answer")
MAX_PAUSE_S = 10.0


@dataclass(frozen=True)
class _Source:
    """A topic of the robot: its message type, what a message recorded at a time says (None: nothing of ours), and
    whether a bag without it is worth a line."""

    msgtype: str
    read: Callable[[Any, int], Any]
    is_needed: bool = False


class Feed:
    """The events of ``robot`` in ``bag``, recorded in ``namespace``; iterate over it once.

    Sensors, commands, instructions and drivers are always among them, of other topics those in ``also``; a bag without
    one of ``needed`` has a problem. An instruction that was a parameter comes with each trace, as long as none was
    published. ``problems`` are those of the bag and, one line for each kind, of messages that could not be used.
    """

    def __init__(
        self,
        bag: BagReader,
        robot: RobotConfig,
        namespace: str = "",
        also: Collection[str] = REPLAYED,
        needed: Collection[str] = (),
    ) -> None:
        self._bag = bag
        self._robot = robot
        others = self._other_sources()
        self._sources: dict[str, list[_Source]] = {}
        hands = self._hand_sources() if topics.TELEOP.name in also else ()
        named = ((name, others[name]) for name in also if name != topics.TELEOP.name)
        for name, source in chain(self._robot_sources(namespace), named, hands):
            source = replace(source, is_needed=source.is_needed or name in needed)
            self._sources.setdefault(resolve_topic(name, namespace), []).append(source)
        self._task_topic = resolve_topic(topics.TASK.name, namespace)
        self._tally = Tally()
        self._named: dict[str, dict[str, None]] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each problem met so far, naming the bag."""
        return (*self._bag.problems, *self._tally.lines)

    def report(self, kind: str, line: str) -> None:
        """Add to ``problems``; of each ``kind`` the first line stays, the others are counted."""
        self._tally.add(kind, f"bag {self._bag.path}: {line}")

    def __iter__(self) -> Iterator[BagEvent]:
        """Raises ValueError where nothing of the bag can be read."""
        readable: dict[str, list[_Source]] = {}
        kinds: set[type] = set()
        last_ns: int | None = None
        for message in self._bag.messages(tuple(self._sources)):
            topic = message.topic
            if topic not in readable:
                readable[topic] = [source for source in self._sources[topic] if self._is_readable(message, source)]
            for source in readable[topic]:
                try:
                    said = source.read(self._bag.decode(message), message.stamp_ns)
                    said = replace(said, place=message.place) if isinstance(said, Frame) else said
                except ValueError as error:
                    self.report(f"{topic} {without_numbers(str(error))}", f"'{topic}': {error}")
                else:
                    if said is not None:
                        self._report_pause(last_ns, message.stamp_ns)
                        last_ns = message.stamp_ns
                        yield BagEvent(message.stamp_ns, said)
                        kinds.add(type(said))
                        if isinstance(said, Trace) and Task not in kinds:
                            yield BagEvent(message.stamp_ns, Task(said.task.strip()))
        self._report_missing({*readable, self._task_topic} if Trace in kinds else set(readable))
        for topic, named in self._named.items():
            missing = [name for name in self._robot.joint_columns[topic] if name not in named]
            if missing:
                line = f"'{topic}' lacks {', '.join(missing)}; it holds {listed(tuple(named), 'no joints')}"
                self.report(f"joints of {topic}", f"{line}: check the joint names in the robot file")

    def _is_readable(self, message: RawMessage, source: _Source) -> bool:
        """Whether a topic's messages are of the type the live nodes take."""
        topic, expected = message.topic, source.msgtype
        try:
            if message.msgtype != expected:
                problem = f"'{topic}' holds {message.msgtype}; expected {expected}: check the robot file"
            elif self._bag.layout(topic).is_standard:
                return True
            else:
                problem = f"'{topic}': the bag defines {expected} differently from ROS"
        except ValueError as error:
            problem = f"'{topic}': {error}"
        self.report(topic, problem)
        return False

    def _report_pause(self, last_ns: int | None, now_ns: int) -> None:
        pause_s = 0.0 if last_ns is None else (now_ns - last_ns) / NS_PER_S
        if pause_s > max_pause_s(self._robot):
            line = f"nothing of the robot was recorded for {pause_s:.1f} s after {last_ns / NS_PER_S:.3f} s"
            self.report("pause", f"{line}; the gap is skipped")

    def _report_missing(self, seen: set[str]) -> None:
        # Of a bag that breaks off, its own list says what came behind the damage.
        listed = () if self._bag.contents is None else self._bag.contents.topics
        present = seen | {topic.name for topic in listed if topic.num_messages}
        for name, sources in self._sources.items():
            needed = [source.msgtype for source in sources if source.is_needed]
            if needed and name not in present:
                alike = [topic.name for topic in listed if topic.msgtype in needed]
                hint = f", which has {', '.join(alike)}" if alike else ""
                self.report(name, f"'{name}' is not in the bag{hint}: check the robot file and the namespace")

    def _robot_sources(self, namespace: str) -> Iterator[tuple[str, _Source]]:
        """Each with the topic's name in the robot file, where two cameras may have one."""
        robot = self._robot
        for topic in robot.joint_topics:
            yield topic, _Source(JOINT_STATE, partial(self._joints, topic), is_needed=True)
        yield topics.TASK.name, _Source(STRING, lambda msg, _: Task(msg.data.strip()), is_needed=True)
        yield topics.MODE.name, _Source(STRING, lambda msg, _: Mode(_one_of(msg.data, MODES)))
        for camera in recorded_cameras(self._bag, robot, namespace):
            kind = COMPRESSED_IMAGE if camera.compressed else IMAGE
            yield camera.topic, _Source(kind, partial(_frame, camera), is_needed=True)
        for output in robot.outputs:
            yield (
                output.set_point_topic,
                _Source(output.set_points.msgtype, partial(self._command, output), is_needed=True),
            )

    def _other_sources(self) -> dict[str, _Source]:
        names = self._robot.joint_names
        return {
            topics.CHUNK.name: _Source(TRAJECTORY, lambda msg, _: Chunk(parse_trajectory(msg, names))),
            topics.TRACE.name: _Source(STRING, lambda msg, _: decode_trace(msg.data)),
            topics.EPISODE_MARKER.name: _Source(STRING, lambda msg, _: Marker(_one_of(msg.data.strip(), MARKERS))),
            topics.GENERATION.name: _Source(STRING, lambda msg, _: _parse_generation(msg.data)),
            topics.SIM_BLOCKS.name: _Source(STRING, lambda msg, _: Scene(_parse_places(msg.data))),
        }

    def _hand_sources(self) -> Iterator[tuple[str, _Source]]:
        for hand in hands_of(self._robot):
            yield hand.topic.name, _Source(hand.topic.type, partial(self._teleop, hand))

    def _joints(self, topic: str, msg: Any, received_ns: int) -> JointSample | None:
        columns, named = self._robot.joint_columns[topic], self._named.setdefault(topic, {})
        if len(named) < MAX_NAMES:
            named.update(dict.fromkeys(msg.name[:MAX_NAMES]))
        return joint_sample(msg, columns, self._robot.num_joints, _stamp(msg, received_ns))

    def _teleop(self, hand: Hand, msg: Any, received_ns: int) -> Teleop | None:
        trajectory = hand.parse(msg, self._robot.joint_names)
        if trajectory is None:
            return None
        _start_ns(trajectory, received_ns, MAX_START_LEAD_S)
        return Teleop(trajectory, hand.topic.name, hand.partners)

    def _command(self, output: OutputConfig, msg: Any, received_ns: int) -> Command:
        trajectory = output.decode(msg, 1.0 / self._robot.control_rate_hz)
        due_ns = _start_ns(trajectory, received_ns, MAX_LEAD_S) + round(trajectory.times_s[0] * NS_PER_S)
        return Command(output.name, due_ns, trajectory)


def recorded_cameras(bag: BagReader, robot: RobotConfig, namespace: str = "") -> tuple[CameraConfig, ...]:
    """The cameras of ``robot`` with the topics they have in ``bag``: of one whose images were compressed as they were
    recorded (``vla_ros record --compress jpeg``), the compressed one."""
    cameras = []
    for camera in robot.cameras:
        plain, packed = (resolve_topic(name, namespace) for name in (camera.topic, compressed(camera.topic)))
        if not camera.compressed and bag.first_of(plain, packed) == packed:
            camera = replace(camera, topic=compressed(camera.topic), compressed=True)
        cameras.append(camera)
    return tuple(cameras)


def observe_event(observer: Observer, event: BagEvent) -> Match | None:
    """Tell ``observer`` what ``event`` says, by the rule of the live node; returns as ``Observer.see``."""
    match event.said:
        case Frame() as frame:
            return observer.see(frame, event.received_ns)
        case JointSample() as sample:
            observer.sensors.joints.add(sample)
        case Task(text):
            observer.sensors.task = text
    return None


def max_pause_s(robot: RobotConfig) -> float:
    """After so long without a message every watchdog has let go of ``robot``: nothing changes until the next one."""
    ages_s = [sensor.max_age_s for sensor in (*robot.joint_sources, *robot.cameras)]
    return max(MAX_PAUSE_S, max(ages_s) + robot.watchdogs.max_recovery_s)


def without_numbers(line: str) -> str:
    """What a line is about: its numbers differ from one message, or one moment, to the next."""
    return re.sub(r"-?\d[\d.]*", "#", line)


def resolve_topic(name: str, namespace: str) -> str:
    """The full name of a topic that a node in ``namespace`` calls ``name``."""
    if name.startswith("/"):
        return name
    return "/" + "/".join(part for part in (*namespace.split("/"), name) if part)


def has_markers(bags: Sequence[Path], namespace: str = "") -> bool:
    """Whether anybody marked where episodes begin and end."""
    topic = resolve_topic(topics.EPISODE_MARKER.name, namespace)
    return any(BagReader(bag).first_of(topic) for bag in bags)


def _stamp(msg: Any, received_ns: int) -> int:
    stamp_ns = time_to_ns(msg.header.stamp)
    check_stamp(stamp_ns, received_ns)
    return stamp_ns


def _start_ns(trajectory: Trajectory, received_ns: int, max_lead_s: float) -> int:
    """When its times count from: the moment of receipt where it has no stamp."""
    if trajectory.stamp_ns:
        check_stamp(trajectory.stamp_ns, received_ns, max_lead_s)
    return trajectory.stamp_ns or received_ns


def _frame(camera: CameraConfig, msg: Any, received_ns: int) -> Frame:
    stamp_ns = _stamp(msg, received_ns)
    decode = partial(decode_frame, msg, camera.width, camera.height)
    # A policy looks at one frame in many: decoding is most of the work.
    is_later = camera.compressed and is_whole_jpeg(msg, camera.width, camera.height)
    content, decode_later = (np.frombuffer(msg.data, np.uint8), decode) if is_later else (decode(), None)
    return Frame(camera.name, stamp_ns, stamp_ns, content, decode_later)


def _one_of(text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise ValueError(f"'{quoted(text)}'; expected one of {', '.join(known)}")
    return text


def _parse_generation(text: str) -> Generation:
    said = parse_json(text)
    if not isinstance(said, dict) or set(said) != set(GENERATION_KEYS):
        raise ValueError(f"'{quoted(text)}' is not a JSON object of {' and '.join(GENERATION_KEYS)}")
    if not all(isinstance(value, str) for value in said.values()):
        raise ValueError(f"'{quoted(text)}': expected text for {' and '.join(GENERATION_KEYS)}")
    return Generation(*(said[key] for key in GENERATION_KEYS))


def _parse_places(text: str) -> dict[str, tuple[float, float]]:
    try:
        return {str(name): (float(x), float(y)) for name, (x, y) in parse_json(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"'{quoted(text)}' is not a JSON object of names and their [x, y] in m") from error
