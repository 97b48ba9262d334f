"""``player``: a bag's sensors, instructions and humans into the live nodes under simulated time; where rosbag2 is missing, or
to engage what ``ros2 bag play`` feeds."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from vla_ros.bags.read import BagReader
from vla_ros.messages.times import fill_time
from vla_ros.nodes.clock import NS_PER_S, steady_now_ns
from vla_ros.nodes.dds import use_default_dds_profile
from vla_ros.nodes.managed import Spinner
from vla_ros.nodes.qos import LINK
from vla_ros.nodes.record_topics import RecordedTopic, recorded_topics
from vla_ros.recordings.feed import resolve_topic
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file

LATCHED_TOPICS = ("vla_policy/task", "vla_policy/estop")
HUMAN_TOPICS = ("vla_policy/teleop", "joy")
LISTENER_PATIENCE_S = 60.0
ENGAGE_EVERY_S = 0.2
DEPTH = 50


@dataclass(frozen=True)
class PlayerParams:
    """``bag`` is empty where another program plays it; ``clock_hz`` is how often ``/clock`` comes in the bag's time, ``rate``
    how much faster than it was recorded the bag is played."""

    bag: str
    robot: str
    clock_hz: float
    rate: float
    engage: bool


class Player(Node):
    """Publishes in the thread that calls ``play``; services are answered in the thread that spins the node."""

    def __init__(self) -> None:
        super().__init__("vla_player")
        self.params = PlayerParams(
            bag=self._parameter("bag", "", "Bag to play; empty: somebody else plays, this node only engages."),
            robot=self._parameter("robot", "tabletop", "Robot file (path of a YAML), or the name of a packaged one."),
            clock_hz=self._parameter("clock_hz", 500.0, "How often /clock is published, Hz of the bag's time."),
            rate=self._parameter("rate", 1.0, "How much faster than recorded."),
            engage=self._parameter("engage", True, "Let the policy drive as soon as it can."),
        )
        if self.params.clock_hz < 1.0 or self.params.rate <= 0.0:
            got = f"clock_hz {self.params.clock_hz:g}, rate {self.params.rate:g}"
            raise ValueError(f"{got}; expected a clock of at least 1 Hz and a rate above 0")
        self._clock_publisher = self.create_publisher(Clock, "/clock", DEPTH)
        self._engage = self.create_client(Trigger, "vla_policy/engage")
        self._next_engage_ns = 0
        self._is_engaged = False
        self._asked: Future | None = None
        self._is_model_up = False
        self.create_subscription(DiagnosticStatus, "vla_model/status", self._on_status, LINK)

    def play(self) -> int:
        """Play the bag to its end; returns how many messages that were. Raises ValueError for a bag or a robot file that
        cannot be used, and where nobody listens."""
        robot, bag = load_robot(robot_file(self.params.robot)), BagReader(Path(self.params.bag))
        publishers = self._make_publishers(robot)
        self._wait_for_listeners(robot, publishers)
        step_ns = round(NS_PER_S / self.params.clock_hz)
        start_ns: int | None = None
        num_played = 0
        for message in bag.messages(tuple(publishers)):
            if start_ns is None:
                start_ns = clock_ns = message.stamp_ns
                began_ns = steady_now_ns()
            while clock_ns <= message.stamp_ns:
                _sleep_until(began_ns + round((clock_ns - start_ns) / self.params.rate))
                self._publish_clock(clock_ns)
                self.try_to_engage()
                clock_ns += step_ns
            _sleep_until(began_ns + round((message.stamp_ns - start_ns) / self.params.rate))
            self._publish_clock(message.stamp_ns)
            publishers[message.topic].publish(bytes(message.data))
            num_played += 1
        for problem in bag.problems:
            self.get_logger().warning(problem)
        if not num_played:
            raise ValueError(f"bag {self.params.bag} has no message of robot '{robot.name}'; check the robot file")
        return num_played

    def try_to_engage(self) -> None:
        """Ask to engage, now and then, until the policy drives."""
        if not self.params.engage or self._is_engaged or steady_now_ns() < self._next_engage_ns:
            return
        self._next_engage_ns = steady_now_ns() + round(ENGAGE_EVERY_S * NS_PER_S)
        if self._asked is not None and self._asked.done():
            self._is_engaged = self._asked.result().success
        if not self._is_engaged and self._engage.service_is_ready():
            self._asked = self._engage.call_async(Trigger.Request())

    @property
    def is_engaged(self) -> bool:
        return self._is_engaged

    def _parameter(self, name: str, default: Any, description: str) -> Any:
        return self.declare_parameter(name, default, ParameterDescriptor(description=description)).value

    def _make_publishers(self, robot: RobotConfig) -> dict[str, Publisher]:
        # Reliable, though sensors need not be: a replay should lose nothing that it can help.
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return {
            self.resolve_topic_name(topic.name): self.create_publisher(
                topic.kind, topic.name, latched if topic.name in LATCHED_TOPICS else DEPTH
            )
            for topic in _played(robot)
        }

    def _wait_for_listeners(self, robot: RobotConfig, publishers: dict[str, Publisher]) -> None:
        """Until somebody listens to every sensor, and the policy node answers."""
        sensors = [self.resolve_topic_name(name) for name in _sensors(robot)]
        deadline = time.monotonic() + LISTENER_PATIENCE_S
        while True:
            deaf = [topic for topic in sensors if not publishers[topic].get_subscription_count()]
            needed = {f"listener on '{topic}'": False for topic in deaf}
            if self.params.engage:
                needed |= {"service 'vla_policy/engage'": self._engage.service_is_ready()}
                needed |= {"an active vla_model": self._is_model_up}
            missing = [what for what, is_there in needed.items() if not is_there]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise ValueError(f"no {missing[0]} after {LISTENER_PATIENCE_S:g} s; start both nodes")
            time.sleep(0.05)

    def _on_status(self, status: DiagnosticStatus) -> None:
        self._is_model_up = status.level == DiagnosticStatus.OK

    def _publish_clock(self, time_ns: int) -> None:
        msg = Clock()
        fill_time(msg.clock, time_ns)
        self._clock_publisher.publish(msg)


def played_topics(robot: str, namespace: str) -> list[str]:
    """Full names of what is played of a bag of ``robot``, a robot file or the name of a packaged one."""
    return [resolve_topic(topic.name, namespace) for topic in _played(load_robot(robot_file(robot)))]


def _played(robot: RobotConfig) -> list[RecordedTopic]:
    names = (*_sensors(robot), *LATCHED_TOPICS, *HUMAN_TOPICS)
    return [topic for topic in recorded_topics(robot, with_link=False) if topic.name in names]


def _sensors(robot: RobotConfig) -> tuple[str, ...]:
    return (*(camera.topic for camera in robot.cameras), robot.joint_states.topic)


def _sleep_until(steady_ns: int) -> None:
    time.sleep(max(0, steady_ns - steady_now_ns()) / NS_PER_S)


def main(args: list[str] | None = None) -> int:
    """Run the node until the bag has ended; exits 2 with one line where it cannot be played."""
    use_default_dds_profile()
    # Ctrl-C ends the loop between two messages, not ROS under it.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        player = Player()
        spinner = Spinner(player)
        spinner.start()
        if player.params.bag:
            print(f"player: {player.play()} messages played", flush=True)
        while not player.params.bag and player.params.engage and not player.is_engaged:
            player.try_to_engage()
            time.sleep(ENGAGE_EVERY_S)
        spinner.stop()
    except ValueError as error:
        print(f"player: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
