"""``vla_ros record``: a robot's live topics into a rosbag2 MCAP bag, every message byte for byte as it came, but for
images that are to become JPEGs."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rclpy.exceptions import InvalidNamespaceException, ParameterException
from rclpy.executors import SingleThreadedExecutor

from vla_ros.bags.write import BagWriter
from vla_ros.record.recorder import RecordNode, TopicRecorder, TopicReport
from vla_ros.record.topics import recorded_topics
from vla_ros.record.writing import WriterThread
from vla_ros.robot import RobotConfig, load_robot, read_robot_file
from vla_ros.ros.dds import cure_of_losses
from vla_ros.ros.robot_description import load_robot_in_graph
from vla_ros.ros.signals import not_a_namespace, ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.strict import listed

# At most a second may be lost, on a disk that takes a while, too.
FLUSH_PERIOD_S = 0.5
SPIN_S = 0.1
# How long to catch up before a flush, and before the end, for which launch waits five seconds.
MAX_CATCH_UP_S = 0.25
MAX_LAST_CATCH_UP_S = 1.0
NUM_IDLE_SPINS = 3
MAX_LOST_SHARE = 0.05
ENOUGH_OF_RATE = 0.8
COMPRESSIONS = ("none", "zstd", "jpeg")


@dataclass(frozen=True)
class RecordConfig:
    """``ros_args`` is what follows ``--ros-args``; ``duration_s`` None stands for until Ctrl-C. ``compress`` is one of
    ``COMPRESSIONS``, ``quality`` the JPEGs', 1 to 100."""

    robot: str
    bag: Path
    duration_s: float | None
    with_link: bool
    namespace: str
    use_sim_time: bool
    ros_args: tuple[str, ...]
    compress: str = "none"
    quality: int = 85


@dataclass(frozen=True)
class RecordReport:
    """What a recording holds, and in ``problems`` what it lacks, a line each; ``num_bytes`` is its size on the disk."""

    bag: str
    seconds: float
    num_bytes: int
    topics: tuple[TopicReport, ...]
    problems: tuple[str, ...]


def record(config: RecordConfig) -> RecordReport:
    """Record until ``duration_s`` is over, or until SIGINT or SIGTERM.

    Raises ValueError for a robot file or a namespace that cannot be used, a bag that exists or cannot be written, and
    where nothing came at all.
    """
    stopping = stop_on_signals()
    file = robot_file(config.robot)
    robot = None if read_robot_file(file).urdf_topic else load_robot(file)
    with ExitStack() as stack:
        recorder = _recorder(config, stack)
        robot = robot or load_robot_in_graph(recorder, file)
        executor = SingleThreadedExecutor()  # the node knows it, but does not keep it
        executor.add_node(recorder)
        quality = config.quality if config.compress == "jpeg" else None
        notes = {} if quality is None else {"jpeg_quality": str(quality)}
        with BagWriter(config.bag, config.compress == "zstd", notes) as bag, WriterThread(bag, quality) as writer:
            while not recorder.has_time and not stopping.is_set():
                recorder.executor.spin_once(SPIN_S)
            recorder.start(recorded_topics(robot, config.with_link), writer)
            started_s = time.monotonic()
            print(f"recording {len(recorder.topics)} topics into {config.bag}; Ctrl-C ends it", flush=True)
            _run(recorder, writer, stopping, config.duration_s)
            _catch_up(recorder, MAX_LAST_CATCH_UP_S)
            seconds = round(time.monotonic() - started_s, 2)
        num_bytes = sum(path.stat().st_size for path in config.bag.iterdir())
        topics, problems = _judge(recorder.topics, robot, config.robot)
        report = RecordReport(str(config.bag), seconds, num_bytes, topics, (*problems, *writer.problems.values()))
        recorder.destroy_node()
    return report


def _recorder(config: RecordConfig, stack: ExitStack) -> RecordNode:
    """The node; ROS runs until ``stack`` ends."""
    try:
        stack.enter_context(ros_running(["--ros-args", *config.ros_args] if config.ros_args else []))
        return RecordNode(config.namespace, config.use_sim_time)
    except InvalidNamespaceException as error:
        raise not_a_namespace(config.namespace, error) from error
    except (ParameterException, RuntimeError) as error:  # what rcl throws has no type of its own in every release
        raise ValueError(f"--ros-args {' '.join(config.ros_args)}: {str(error).splitlines()[0]}") from error


def _run(recorder: RecordNode, writer: WriterThread, stopping: threading.Event, duration_s: float | None) -> None:
    is_complete = False
    flush_s = started_s = time.monotonic()
    while not stopping.is_set() and (duration_s is None or time.monotonic() < started_s + duration_s):
        recorder.executor.spin_once(SPIN_S)
        if time.monotonic() < flush_s + FLUSH_PERIOD_S:
            continue
        flush_s = time.monotonic()
        # Topics wait in queues of their own: with all of them empty, what follows in the bag is later, too.
        _catch_up(recorder, MAX_CATCH_UP_S)
        writer.flush()
        recorder.look()
        # Finding the topics takes a while: whoever starts something to record wants to know since when.
        if not is_complete and all(topic.report.num_messages for topic in recorder.topics if topic.topic.is_needed):
            is_complete = True
            print("every topic of the robot file comes in", flush=True)


def _catch_up(recorder: RecordNode, max_s: float) -> None:
    """Take what still waits where this process was late."""
    deadline_s, num_idle = time.monotonic() + max_s, 0
    while num_idle < NUM_IDLE_SPINS and time.monotonic() < deadline_s:
        before = recorder.num_messages
        recorder.executor.spin_once(0.0)
        num_idle = 0 if recorder.num_messages > before else num_idle + 1


def _judge(
    topics: list[TopicRecorder], robot: RobotConfig, robot_name: str
) -> tuple[tuple[TopicReport, ...], tuple[str, ...]]:
    if not any(topic.report.num_messages for topic in topics):
        raise ValueError(
            f"nothing came on any of {len(topics)} topics; check that the robot runs, ROS_DOMAIN_ID, --namespace, "
            f"and the topics in {robot_name}"
        )
    problems = [
        f"{topic.name} is published as {', '.join(sorted(topic.foreign_types))}, which is not recorded; expected "
        f"{topic.topic.msgtype}: check {robot_name}, or remap one of them"
        for topic in topics
        if topic.foreign_types
    ]
    for camera, report in zip(robot.cameras, (topic.report for topic in topics), strict=False):  # cameras come first
        if report.num_lost > MAX_LOST_SHARE * report.num_messages:
            got = f"{report.num_lost} images of {report.topic} were lost on the way, {report.num_messages} came"
            problems.append(f"{got}; {cure_of_losses()}")
        elif camera.rate_hz is not None and report.num_messages and report.rate_hz < ENOUGH_OF_RATE * camera.rate_hz:
            got = f"images of {report.topic} came at {report.rate_hz:.1f} Hz; expected {camera.rate_hz:g} Hz (rate_hz"
            problems.append(f"{got} in {robot_name}): the camera's settings, or {cure_of_losses()}")
    for topic in topics:
        if topic.unnamed and topic.report.num_messages:
            got, came = f"no message of {topic.name} named {', '.join(topic.unnamed)}", listed(tuple(topic.named))
            problems.append(f"{got}; they named {came}: check the joint names in {robot_name}")
    silent = [topic.name for topic in topics if topic.topic.is_needed and not topic.report.num_messages]
    if silent:
        problems.append(
            f"nothing came on {', '.join(silent)}; check that the robot runs, and its topics in {robot_name}"
        )
    return tuple(topic.report for topic in topics), tuple(problems)
