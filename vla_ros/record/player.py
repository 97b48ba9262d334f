"""``player``: a bag's sensors, instructions and humans into the live nodes under simulated time, by ``ros2 bag play``
where that is installed, else by itself.

It waits until the nodes listen, and lets the policy drive as soon as it can.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.bags.read import BagReader
from vla_ros.hands import hands_of
from vla_ros.messages.images import decode_frame, encode_image
from vla_ros.messages.times import fill_time, time_to_ns
from vla_ros.record.topics import RobotTopic, recorded_topics
from vla_ros.recordings.feed import recorded_cameras
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.robot.parts import CameraConfig
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.declare import declare_and_read
from vla_ros.ros.endpoints import make_client, subscribe
from vla_ros.ros.managed import spinning
from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.signals import interrupt_on_signals, ros_running
from vla_ros.share import robot_file
from vla_ros.start import end_with_parent
from vla_ros.strict import explained, one_line
from vla_ros.units import NS_PER_S

LATCHED_TOPICS = (topics.TASK.name, topics.ESTOP.name)
PLAYERS = ("auto", "rosbag2", "own")
# Loading and warming up a large policy takes minutes.
LISTENER_PATIENCE_S = 300.0
ENGAGE_EVERY_S = 0.2
DEPTH = 50
# What ``ros2 bag play`` publishes before its topics are discovered is lost.
ROSBAG2_DELAY_S = 2.0
ROSBAG2_PATIENCE_S = 5.0


@dataclass(frozen=True)
class PlayerParams(NodeParameters):
    """Of ``player``."""

    bag: str = parameter("", "Bag whose sensors are played.", is_required=True)
    robot: str = robot_parameter()
    player: str = parameter(
        "auto", "What plays the bag; auto: rosbag2 where it is installed, else this package.", choices=PLAYERS
    )
    clock_hz: float = parameter(
        500.0, f"How often {topics.CLOCK} comes, in the bag's time.", unit="Hz", low=1.0, high=1e5
    )
    rate: float = parameter(1.0, "How much faster than recorded.", low=0.0, high=1000.0, is_open=True)
    engage: bool = parameter(True, "Let the policy drive as soon as it can.")


class Player(Node):
    """Publishes in the thread that calls ``play``; services are answered in the thread that spins the node."""

    def __init__(self) -> None:
        super().__init__("vla_player")
        self.params = declare_and_read(self, PlayerParams)
        self._engage = make_client(self, topics.ENGAGE)
        self._next_engage_ns = 0
        self._is_engaged = False
        self._asked: Future | None = None
        self._is_model_up = False
        subscribe(self, topics.STATUS, self._on_status)

    def play(self) -> str:
        """Play the bag to its end; returns a line on what was played. Raises ValueError for a bag or a robot file that
        cannot be used, and where nobody listens."""
        robot, bag = load_robot(robot_file(self.params.robot)), BagReader(Path(self.params.bag))
        played = {self.resolve_topic_name(topic.name): topic for topic in _played(robot)}
        unpacked = self._unpacked(robot, bag)
        if self.params.player == "rosbag2" and unpacked:
            got = f"bag {bag.path}: '{next(iter(unpacked))}' holds JPEGs of a camera whose nodes want images"
            raise ValueError(f"{got}, which ros2 bag play cannot make of them; give player:=own")
        if self.params.player == "rosbag2" or (self.params.player == "auto" and not unpacked and _has_rosbag2()):
            return self._play_by_rosbag2(robot, bag, played)
        return self._play_by_itself(robot, bag, played, unpacked)

    def _unpacked(self, robot: RobotConfig, bag: BagReader) -> dict[str, CameraConfig]:
        """The cameras whose images were compressed as they were recorded, by the topic they have in the bag."""
        cameras = zip(robot.cameras, recorded_cameras(bag, robot, self.get_namespace()), strict=True)
        return {self.resolve_topic_name(packed.topic): plain for plain, packed in cameras if packed is not plain}

    def _play_by_itself(
        self,
        robot: RobotConfig,
        bag: BagReader,
        played: Mapping[str, RobotTopic],
        unpacked: Mapping[str, CameraConfig],
    ) -> str:
        # Reliable, though sensors need not be: a replay should lose nothing that it can help.
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        publishers = {
            name: self.create_publisher(topic.kind, topic.name, latched if topic.name in LATCHED_TOPICS else DEPTH)
            for name, topic in played.items()
        }
        clock = self.create_publisher(Clock, topics.CLOCK.name, DEPTH)
        self._wait_for_listeners(robot, lambda topic: publishers[topic].get_subscription_count())
        step_ns = round(NS_PER_S / self.params.clock_hz)
        start_ns: int | None = None
        num_played = 0
        for message in bag.messages((*publishers, *unpacked)):
            camera = unpacked.get(message.topic)
            if camera is None:
                _check_type(bag, message.topic, message.msgtype, played)
            if start_ns is None:
                start_ns = clock_ns = message.stamp_ns
                began_ns = steady_now_ns()
            while clock_ns <= message.stamp_ns:
                _sleep_until(began_ns + round((clock_ns - start_ns) / self.params.rate))
                clock.publish(_clock(clock_ns))
                self._try_to_engage()
                clock_ns += step_ns
            _sleep_until(began_ns + round((message.stamp_ns - start_ns) / self.params.rate))
            clock.publish(_clock(message.stamp_ns))
            if camera is None:
                publishers[message.topic].publish(bytes(message.data))
            else:
                publishers[self.resolve_topic_name(camera.topic)].publish(_as_image(bag.decode(message), camera))
            num_played += 1
        for problem in bag.problems:
            self.get_logger().warning(problem)
        if not num_played:
            raise ValueError(f"bag {self.params.bag} has no message of robot '{robot.name}'; check the robot file")
        return f"{num_played} messages played"

    def _play_by_rosbag2(self, robot: RobotConfig, bag: BagReader, played: Mapping[str, RobotTopic]) -> str:
        for topic in bag.contents.topics if bag.contents is not None else ():
            _check_type(bag, topic.name, topic.msgtype, played)
        self._wait_for_listeners(robot, self.count_subscribers)
        options = [f"--clock={self.params.clock_hz:g}", f"--rate={self.params.rate:g}", f"--delay={ROSBAG2_DELAY_S:g}"]
        options += ["--disable-keyboard-controls", "--topics", *played]
        command = ["ros2", "bag", "play", self.params.bag, *options]
        with explained("ros2 bag play cannot be started (", OSError, after="); source ROS 2, or player:=own"):
            child = subprocess.Popen(command, preexec_fn=end_with_parent)
        try:
            while child.poll() is None:
                self._try_to_engage()
                time.sleep(ENGAGE_EVERY_S)
        finally:
            _end(child)
        if child.returncode:
            raise ValueError(f"ros2 bag play ended with {child.returncode}; player:=own plays without it")
        return "played by ros2 bag play"

    def _try_to_engage(self) -> None:
        """Ask to engage, now and then, until the policy drives."""
        if not self.params.engage or self._is_engaged or steady_now_ns() < self._next_engage_ns:
            return
        self._next_engage_ns = steady_now_ns() + round(ENGAGE_EVERY_S * NS_PER_S)
        if self._asked is not None and self._asked.done():
            self._is_engaged = self._asked.result().success
        if not self._is_engaged and self._engage.service_is_ready():
            self._asked = self._engage.call_async(Trigger.Request())

    def _wait_for_listeners(self, robot: RobotConfig, count: Callable[[str], int]) -> None:
        """Until somebody listens to every sensor, as ``count`` says of a topic, and the policy node answers."""
        sensors = [self.resolve_topic_name(name) for name in _sensors(robot)]
        deadline = time.monotonic() + LISTENER_PATIENCE_S
        while True:
            needed = {f"listener on '{topic}'": count(topic) > 0 for topic in sensors}
            if self.params.engage:
                needed |= {f"service '{topics.ENGAGE}'": self._engage.service_is_ready()}
                needed |= {f"an active {topics.MODEL_NODE}": self._is_model_up}
            missing = [what for what, is_there in needed.items() if not is_there]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise ValueError(f"no {missing[0]} after {LISTENER_PATIENCE_S:g} s; start both nodes")
            time.sleep(0.05)

    def _on_status(self, status: DiagnosticStatus) -> None:
        self._is_model_up = status.level == DiagnosticStatus.OK


def _as_image(packed: Any, camera: CameraConfig) -> Image:
    """Raises ValueError for a JPEG that isn't one of the camera's."""
    msg = Image()
    pixels = decode_frame(packed, camera.width, camera.height)
    encode_image(pixels, msg, time_to_ns(packed.header.stamp), packed.header.frame_id)
    return msg


def _clock(time_ns: int) -> Clock:
    msg = Clock()
    fill_time(msg.clock, time_ns)
    return msg


def _played(robot: RobotConfig) -> list[RobotTopic]:
    hands = (hand.topic.name for hand in hands_of(robot))
    names = (*_sensors(robot), *LATCHED_TOPICS, *hands, topics.JOY.name)
    return [topic for topic in recorded_topics(robot, with_link=False) if topic.name in names]


def _sensors(robot: RobotConfig) -> tuple[str, ...]:
    return (*(camera.topic for camera in robot.cameras), *robot.joint_topics)


def _check_type(bag: BagReader, topic: str, msgtype: str, played: Mapping[str, RobotTopic]) -> None:
    """What is published as it was recorded must be what the nodes take."""
    expected = played[topic].msgtype if topic in played else msgtype
    if msgtype != expected:
        raise ValueError(f"bag {bag.path}: '{topic}' holds {msgtype}; expected {expected}: check the robot file")


def _has_rosbag2() -> bool:
    try:
        get_package_prefix("ros2bag")
    except (PackageNotFoundError, OSError):  # OSError: no ROS workspace is sourced
        return False
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """Does nothing where it has ended."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(ROSBAG2_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _sleep_until(steady_ns: int) -> None:
    time.sleep(max(0, steady_ns - steady_now_ns()) / NS_PER_S)


def main(args: list[str] | None = None) -> int:
    """Run the node until the bag has ended; exits 2 with one line where it cannot be played."""
    interrupt_on_signals()  # between two messages
    try:
        with ros_running(args):
            player = Player()
            with spinning(player):
                print(f"player: {player.play()}", flush=True)
    except ValueError as error:
        print(f"player: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
