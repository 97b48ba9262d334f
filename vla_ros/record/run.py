"""``vla_ros record``: a robot's live topics into a rosbag2 MCAP bag, every message byte for byte as it came."""

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
from vla_ros.robot import load_robot
from vla_ros.ros.dds import profile_assignment
from vla_ros.ros.signals import not_a_namespace, ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE

# At most a second may be lost, on a disk that takes a while, too.
FLUSH_PERIOD_S = 0.5
SPIN_S = 0.1
# How long to catch up before a flush, and before the end, for which launch waits five seconds.
MAX_CATCH_UP_S = 0.25
MAX_LAST_CATCH_UP_S = 1.0
NUM_IDLE_SPINS = 3
MAX_LOST_SHARE = 0.05


@dataclass(frozen=True)
class RecordConfig:
    """``ros_args`` is what follows ``--ros-args``; ``duration_s`` None stands for until Ctrl-C."""

    robot: str
    bag: Path
    duration_s: float | None
    with_link: bool
    namespace: str
    use_sim_time: bool
    ros_args: tuple[str, ...]


@dataclass(frozen=True)
class RecordReport:
    """What a recording holds, and in ``problems`` what it lacks, a line each."""

    bag: str
    seconds: float
    topics: tuple[TopicReport, ...]
    problems: tuple[str, ...]


def record(config: RecordConfig) -> RecordReport:
    """Record until ``duration_s`` is over, or until SIGINT or SIGTERM.

    Raises ValueError for a robot file or a namespace that cannot be used, a bag that exists or cannot be written, and
    where nothing came at all.
    """
    stopping = stop_on_signals()
    robot = load_robot(robot_file(config.robot))
    with ExitStack() as stack:
        recorder = _recorder(config, stack)
        executor = SingleThreadedExecutor()  # the node knows it, but does not keep it
        executor.add_node(recorder)
        with BagWriter(config.bag) as bag:
            while not recorder.has_time and not stopping.is_set():
                recorder.executor.spin_once(SPIN_S)
            recorder.start(recorded_topics(robot, config.with_link), bag)
            started_s = time.monotonic()
            print(f"recording {len(recorder.topics)} topics into {config.bag}; Ctrl-C ends it", flush=True)
            _run(recorder, bag, stopping, config.duration_s)
            _catch_up(recorder, MAX_LAST_CATCH_UP_S)
            seconds = round(time.monotonic() - started_s, 2)
        report = RecordReport(str(config.bag), seconds, *_judge(recorder.topics, config.robot))
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


def _run(recorder: RecordNode, bag: BagWriter, stopping: threading.Event, duration_s: float | None) -> None:
    is_complete = False
    flush_s = started_s = time.monotonic()
    while not stopping.is_set() and (duration_s is None or time.monotonic() < started_s + duration_s):
        recorder.executor.spin_once(SPIN_S)
        if time.monotonic() < flush_s + FLUSH_PERIOD_S:
            continue
        flush_s = time.monotonic()
        # Topics wait in queues of their own: with all of them empty, what follows in the bag is later, too.
        _catch_up(recorder, MAX_CATCH_UP_S)
        bag.flush()
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


def _judge(topics: list[TopicRecorder], robot: str) -> tuple[tuple[TopicReport, ...], tuple[str, ...]]:
    if not any(topic.report.num_messages for topic in topics):
        raise ValueError(
            f"nothing came on any of {len(topics)} topics; check that the robot runs, ROS_DOMAIN_ID, --namespace, "
            f"and the topics in {robot}"
        )
    problems = [
        f"{topic.name} is published as {', '.join(sorted(topic.foreign_types))}, which is not recorded; expected "
        f"{topic.topic.msgtype}: check {robot}, or remap one of them"
        for topic in topics
        if topic.foreign_types
    ]
    problems += [
        f"{report.num_lost} images of {report.topic} were lost on the way, {report.num_messages} came; start "
        f"their publisher with {profile_assignment()}"
        for report in (topic.report for topic in topics)
        if report.type in (IMAGE, COMPRESSED_IMAGE) and report.num_lost > MAX_LOST_SHARE * report.num_messages
    ]
    silent = [topic.name for topic in topics if topic.topic.is_needed and not topic.report.num_messages]
    if silent:
        problems.append(f"nothing came on {', '.join(silent)}; check that the robot runs, and its topics in {robot}")
    return tuple(topic.report for topic in topics), tuple(problems)
